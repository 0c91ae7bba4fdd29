"""One run, from its parts to its folder: build, train, evaluate, save, record."""

import copy
import hashlib
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from tracerft.averaging import beta_kernel
from tracerft.config import FinetuneConfig, read_config, unused_options
from tracerft.data.sampling import steps_per_epoch
from tracerft.data.suite import Suite
from tracerft.errors import ArgumentError, RunFolderError, one_of
from tracerft.evaluation.dynamics import teacher_student_gap
from tracerft.evaluation.suite import evaluate_models
from tracerft.losses import TracerLoss
from tracerft.methods import METHODS, Ingredients, Method
from tracerft.models.encoder import LoadedModel, freeze
from tracerft.models.lora import add_lora
from tracerft.models.weights import num_parameters, pick_device, save_model
from tracerft.reports.record import environment, write_json
from tracerft.reports.run import write_run_report
from tracerft.sources import Parts
from tracerft.training.trainer import Plan, Probe, Progress, Trainer, refuse_changes

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
    """

    config: FinetuneConfig
    loaded: LoadedModel
    pretrained: nn.Module
    parts: Parts
    method: Method
    plan: Plan


def prepare(config: FinetuneConfig, loaded: LoadedModel, parts: Parts, method: Method | None = None) -> Ready:
    """Put a run together.

    Raises:
        TracerftError: one line, for whatever does not fit.
    """
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
    plan = _plan(config, parts, pretrained, device)
    return Ready(config, loaded, pretrained, parts, method or build_method(config), plan)


def _with_targets(config: FinetuneConfig, parts: Parts) -> FinetuneConfig:
    if config.loss.targets != "auto":
        return config
    targets = "multi_positive" if parts.collisions > REPEATED else "diagonal"
    return replace(config, loss=replace(config.loss, targets=targets))


def build_method(config: FinetuneConfig) -> Method:
    """The named method with its ingredients.

    Raises:
        ArgumentError: if the name is unknown, or an option was set that the method does not read.
    """
    one_of("method", config.method, tuple(METHODS))
    info, loss, teacher = METHODS[config.method], config.loss, config.teacher
    if unused := unused_options(config, info.uses):
        raise ArgumentError(
            f"`method` {info.name} does not read {', '.join(unused)}; leave out what it does not use, or choose "
            "another method (tracerft methods)"
        )
    terms = {name: getattr(loss, name) for name in ("sd_weight", "fd", "crd", "icl", "cross_kd", "targets")}
    return info.build(
        Ingredients(
            loss=TracerLoss(**terms),
            l2_sp=loss.l2_sp,
            cross_frobenius=loss.cross_frobenius,
            kernel=beta_kernel(teacher.a, teacher.b),
            momentum=teacher.momentum,
            update_every=teacher.update_every,
            weighting=teacher.weighting,
            alpha=teacher.alpha,
        )
    )


def execute(
    ready: Ready, *, resume: bool = False, progress: Progress | None = None, lean: bool = False
) -> dict[str, Any]:
    """Train, evaluate and write the run's folder; returns the record.

    ``lean`` is for studies of many runs: no predictions and no report of its own, and the start is evaluated once
    for all runs of a process that share it.
    """
    config, student, method = ready.config, ready.loaded.model, ready.method
    folder, started = Path(config.out), time.perf_counter()
    _claim(folder, config, resume)
    probe = _probe(ready) if config.train.probe_every else None
    trainer = Trainer(student, method, ready.parts.source, ready.plan, folder, probe=probe, progress=progress)
    if resume:
        for problem in trainer.resume():
            warnings.warn(f"passed over a checkpoint: {problem}", UserWarning, stacklevel=2)
    trainer.run()
    models = method.models()
    results = _evaluated(ready, models, None if lean else folder / "predictions")
    for name, finished in models.items():
        save_model(finished, folder / name)
    record = _record(ready, results, time.perf_counter() - started)
    write_json(folder / "record.json", record)
    if not lean:
        write_run_report(folder)
    return record


def _record(ready: Ready, results: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    config, source, splits = ready.config, ready.parts.source, ready.parts.suite.splits()
    trained, total = num_parameters(ready.loaded.model)
    versions = environment()
    noted = [*getattr(source, "warnings", ()), *(f"{n}: {w}" for n, split in splits.items() for w in split.warnings)]
    return {
        "tracerft": versions["tracerft"],
        "status": "finished",
        "method": config.method,
        "seed": config.train.seed,
        "config": asdict(config),
        "environment": versions,
        "data": {
            "train": {"n": len(source), "sha256": source.sha256},
            **{name: {"n": len(split), "sha256": split.sha256} for name, split in splits.items()},
        },
        "classes": list(ready.parts.classes),
        "warnings": noted,
        "parameters": {"trained": trained, "total": total},
        "pretrained_weight": getattr(getattr(ready.method, "teacher", None), "pretrained_weight", None),
        "steps": ready.plan.total_steps,
        "seconds": seconds,
        "results": results,
    }


_STARTS: dict[tuple[object, ...], dict[str, Any]] = {}


def _evaluated(ready: Ready, models: Mapping[str, nn.Module], predictions: Path | None) -> dict[str, dict[str, Any]]:
    """Metrics of the start and of what came out; without ``predictions`` a known start is not evaluated again."""
    splits, tokenize, start = ready.parts.suite.splits(), ready.loaded.tokenize, {"pretrained": ready.pretrained}
    if predictions is not None:
        return evaluate_models({**start, **models}, splits, tokenize, predictions)
    key = (ready.plan.fingerprint["model_sha256"], *(split.sha256 for split in splits.values()))
    if key not in _STARTS:
        _STARTS[key] = evaluate_models(start, splits, tokenize)["pretrained"]
    return {"pretrained": _STARTS[key], **evaluate_models(models, splits, tokenize)}


def _plan(config: FinetuneConfig, parts: Parts, pretrained: nn.Module, device: torch.device) -> Plan:
    t = config.train
    per_epoch = steps_per_epoch(len(parts.source), t.batch_size)
    total = t.steps if t.steps is not None else t.epochs * per_epoch
    same = asdict(config) | {"data_sha256": parts.source.sha256, "model_sha256": _sha256(pretrained.state_dict())}
    del same["out"]
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
        fingerprint=_flat(same),
    )


def _claim(folder: Path, config: FinetuneConfig, resume: bool) -> None:
    """Make the run folder and write what the run is, or refuse one that is in use."""
    written = folder / "config.yaml"
    if resume and not written.is_file():
        raise RunFolderError(f"{folder}: nothing to resume, no config.yaml there; start without --resume")
    if resume:  # also before the first checkpoint, which would tell the same
        refuse_changes(*(_flat(asdict(c) | {"out": None}) for c in (read_config(written), config)))
    if not resume and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunFolderError(
            f"{folder}: exists and is not empty; choose another --out, or go on with "
            f"`tracerft finetune --resume {folder}`"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not resume:
            written.write_text(yaml.safe_dump(asdict(config), sort_keys=False))
    except OSError as error:
        raise RunFolderError(f"{folder}: cannot be written ({error.strerror}); choose another --out") from error


def _probe(ready: Ready) -> Probe:
    """Teacher-student gap on held-out images; empty for a method without a teacher."""
    suite: Suite = ready.parts.suite
    split = suite.selection.get("id", suite.id)
    student = ready.loaded.model
    images = next(iter(split.images.image_batches())).to(ready.plan.device)

    def measure(step: int) -> Mapping[str, float]:
        teacher = getattr(ready.method, "teacher", None)
        if teacher is None:
            return {}
        return teacher_student_gap(teacher.averaged, student, images, split.prompts, ready.loaded.tokenize)

    return measure


def _sha256(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
