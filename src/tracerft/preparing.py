"""Configuration, model and data to a run that could start: method, length, class head, guard. Writes nothing."""

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tracerft.averaging import beta_kernel
from tracerft.config import FinetuneConfig, GuardConfig
from tracerft.config_rules import unused_options
from tracerft.data.sampling import LISTED, ORDER, steps_per_epoch
from tracerft.errors import ArgumentError, one_of
from tracerft.evaluation.suite import Predictor
from tracerft.guarding import Guard, read_guard
from tracerft.losses import TracerLoss
from tracerft.methods import METHODS, Ingredients, Method, MethodInfo
from tracerft.models.encoder import LoadedModel, freeze
from tracerft.models.head import attach_head, class_head, digest
from tracerft.models.lora import add_lora
from tracerft.models.weights import pick_device
from tracerft.sources import Parts, training_split
from tracerft.training.plan import Plan

MAX_STEPS = 10_000_000  # 400 times the longest run of the paper; what a longer one weighs is summed step by step
REPEATED = 0.01  # expected share of pairs with a caption twin from which targets="auto" counts them


@dataclass(frozen=True)
class Ready:
    """A run that could start: everything is read, built and checked, and nothing is written.

    Args:
        config: with ``loss.targets`` decided.
        loaded: model, tokenizer and image size; its model is the student.
        pretrained: a frozen copy of the start.
        parts: data and suite.
        method: what is optimised.
        plan: length, rates, intervals.
        guard: against forgetting, where it is asked for.
    """

    config: FinetuneConfig
    loaded: LoadedModel
    pretrained: nn.Module
    parts: Parts
    method: Method
    plan: Plan
    guard: Guard | None = None


def prepare(config: FinetuneConfig, loaded: LoadedModel, parts: Parts, method: Method | None = None) -> Ready:
    """Put a run together.

    Raises:
        TracerftError: one line, for whatever does not fit.
    """
    if config.train.shard:
        refuse_unsharded(config, method)
    device = pick_device(config.train.device)
    config = _with_targets(config, parts)
    student = loaded.model.to(device)
    pretrained = copy.deepcopy(student).requires_grad_(False)
    freeze(student, config.freeze)
    if config.lora.rank:
        towers = {"none": "both", "text": "image", "image": "text"}[config.freeze]
        with torch.random.fork_rng(devices=[]):  # the first factor of an adapter is drawn
            torch.manual_seed(config.train.seed)
            add_lora(student, config.lora.preset, rank=config.lora.rank, alpha=config.lora.alpha, towers=towers)
    if not any(p.requires_grad for p in student.parameters()):
        raise ArgumentError("nothing trains: `freeze` leaves no tensor of this model; set it to none")
    info = None if method else method_info(config.method)
    if info is not None and info.head:
        _attach_head(student, info, loaded, parts)
    elif info is not None and info.trains and class_head(student) is not None:
        del student.class_head  # the start was a classifier; from here on captions speak for the classes
    plan = _plan(config, parts, pretrained, device, trains=info is None or info.trains)
    guard = read_guard(config, loaded, parts, pretrained)
    return Ready(config, loaded, pretrained, parts, method or build_method(config, loaded, parts), plan, guard)


def _attach_head(student: nn.Module, info: MethodInfo, loaded: LoadedModel, parts: Parts) -> None:
    """Freeze all but the image tower, and start a class head from the captions of the classes, unless it has one."""
    if not parts.prompts:
        raise ArgumentError(
            f"`method` {info.name} trains a classifier and needs class labels; the data has captions only; give class "
            "folders or a label column, or choose a contrastive method (tracerft methods)"
        )
    freeze(student, "text")
    found = class_head(student)
    if found is not None and found.prompts == digest(parts.prompts) and (found.bias is not None) == info.folded:
        found.requires_grad_(True)  # the start was finetuned on these classes: go on from there
        return
    if found is not None:
        del student.class_head
    attach_head(student, loaded.tokenize, parts.prompts, folded=info.folded)


def _with_targets(config: FinetuneConfig, parts: Parts) -> FinetuneConfig:
    if config.loss.targets != "auto":
        return config
    targets = "multi_positive" if parts.collisions > REPEATED else "diagonal"
    return replace(config, loss=replace(config.loss, targets=targets))


def method_info(name: str) -> MethodInfo:
    """The row of a method that can be run.

    Raises:
        ArgumentError: if the name is unknown, or the method is made from finished runs.
    """
    one_of("method", name, tuple(METHODS))
    info = METHODS[name]
    if info.build is None:
        raise ArgumentError(f"`method` {name} has no run of its own; it is made by: {info.how}")
    return info


def refuse_unused(config: FinetuneConfig, before: FinetuneConfig) -> None:
    """Refuse what a user changed although the method does not read it.

    Args:
        config: as it is to be run.
        before: a preset's values, or the defaults; what these bring is no mistake of the user's.

    Raises:
        ArgumentError: naming the options; also if the method is unknown or has no run.
    """
    info = method_info(config.method)
    if unused := unused_options(config, before, info.uses):
        raise ArgumentError(
            f"`method` {info.name} does not read {', '.join(unused)}; leave out what it does not use, or choose "
            "another method (tracerft methods)"
        )


def refuse_unsharded(config: FinetuneConfig, method: Method | None) -> None:
    """Refuse what needs a whole model on one rank while it trains.

    Raises:
        ArgumentError: naming all of it.
    """
    able = [name for name, info in METHODS.items() if info.shards]
    rules = [
        ("a method of one's own", method is not None),
        (f"`method` {config.method} (it takes {', '.join(able)})", method is None and config.method not in able),
        ("loss.cross_frobenius, which multiplies weights", config.loss.cross_frobenius > 0),
        ("lora.rank", config.lora.rank > 0),
        ("guard.*", config.guard != GuardConfig()),
        ("train.probe_every", config.train.probe_every > 0),
    ]
    if needed := [what for what, holds in rules if holds]:
        raise ArgumentError(
            f"`train.shard` cannot be used with {', '.join(needed)}: it needs a whole model on one rank; leave one "
            "of them out"
        )


def build_method(config: FinetuneConfig, loaded: LoadedModel | None = None, parts: Parts | None = None) -> Method:
    """The named method with its ingredients; without a model and data, those that need neither.

    Raises:
        ArgumentError: if the name is unknown, or the method is made from finished runs.
    """
    info = method_info(config.method)
    assert info.build is not None  # for the type checker, see method_info
    return info.build(ingredients(config, loaded, parts))


def ingredients(config: FinetuneConfig, loaded: LoadedModel | None = None, parts: Parts | None = None) -> Ingredients:
    """What a configuration, a model and data hold for a method."""
    loss, teacher = config.loss, config.teacher
    terms = {name: getattr(loss, name) for name in ("sd_weight", "fd", "crd", "icl", "cross_kd", "targets")}
    named = {k: float(v or 0) for k, v in (vars(loss) | vars(teacher)).items() if not isinstance(v, str)}
    given: dict[str, Any] = {}
    if loaded is not None and parts is not None:
        given = {"tokenize": loaded.tokenize, "prompts": parts.prompts, "examples": partial(_examples, loaded, parts)}
        given["anchors"] = parts.anchors
    return Ingredients(
        loss=TracerLoss(**terms),
        weights=named,
        kernel=beta_kernel(teacher.a, teacher.b),
        momentum=teacher.momentum,
        update_every=teacher.update_every,
        weighting=teacher.weighting,
        probe=config.probe,
        seed=config.train.seed,
        **given,
    )


def _examples(loaded: LoadedModel, parts: Parts, model: nn.Module) -> tuple[Tensor, Tensor]:
    """Unit-norm embeddings ``(n, D)`` and labels ``(n,)`` of all training images, without augmentation."""
    split = training_split(parts)
    return Predictor({"model": model}, loaded.tokenize).images(split)["model"], torch.from_numpy(split.labels)


def _plan(
    config: FinetuneConfig, parts: Parts, pretrained: nn.Module, device: torch.device, *, trains: bool = True
) -> Plan:
    t = config.train
    per_epoch = steps_per_epoch(len(parts.source), t.batch_size)
    total = t.steps if t.steps is not None else t.epochs * per_epoch
    if total > MAX_STEPS:
        raise ArgumentError(
            f"`train.steps` or `train.epochs` ask for {total:,} optimiser steps; at most {MAX_STEPS:,} are taken; "
            "lower them"
        )
    total = total if trains else 0
    same = asdict(config) | {"data_sha256": parts.source.sha256, "model_sha256": _sha256(pretrained.state_dict())}
    for name in ("out", "guard", "log", "examples"):  # these only look; `running` compares guard and examples
        del same[name]
    for name in ("shard", "replicas"):  # where numbers lie, not which
        del same["train"][name]
    if len(parts.source) > LISTED:  # a run of a version that listed it would go on with other samples
        same["order"] = ORDER
    if not t.compile:
        del same["train"]["compile"]  # checkpoints from before the option had none
    return Plan(
        total_steps=total,
        batch_size=t.batch_size,
        lr=t.lr,
        weight_decay=t.weight_decay,
        warmup_steps=min(500, total // 10) if t.warmup_steps is None else t.warmup_steps,
        seed=t.seed,
        log_every=t.log_every,
        checkpoint_every=t.checkpoint_every,
        probe_every=t.probe_every,
        device=device,
        autocast=t.precision == "bf16",
        fingerprint=flat(same),
        compile=t.compile,
        accumulate=t.accumulate,
        shard=t.shard,
        replicas=t.replicas,
    )


def _sha256(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options under their full names, such as ``train.lr``."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
