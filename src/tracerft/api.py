"""The composition root: configuration in, objects, a run folder out. Holds no mathematics."""

import copy
import dataclasses
import hashlib
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from torch import Tensor, nn

from tracerft.averaging import beta_kernel
from tracerft.averaging import interpolate as weight_average
from tracerft.config import (
    DigitsConfig,
    FinetuneConfig,
    LossConfig,
    TeacherConfig,
    TrainConfig,
    check,
    unused_options,
)
from tracerft.data.digits import DigitSet, load_digits, without_embedded
from tracerft.data.sampling import steps_per_epoch
from tracerft.data.suite import Suite, digit_suite
from tracerft.errors import ArgumentError, DataError, RunFolderError, did_you_mean, one_of
from tracerft.evaluation.dynamics import teacher_student_gap
from tracerft.evaluation.suite import evaluate_models
from tracerft.losses import TracerLoss
from tracerft.methods import METHODS, Ingredients, Method
from tracerft.models.encoder import LoadedModel
from tracerft.models.encoder import freeze as freeze_towers
from tracerft.models.weights import load_model, num_parameters, pick_device, save_model
from tracerft.reports.record import environment, read_record, write_json
from tracerft.reports.run import write_run_report
from tracerft.reports.terminal import results_table
from tracerft.training.trainer import Plan, Probe, Progress, Trainer, refuse_changes


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and what ``record.json`` says. Prints as a table."""

    folder: Path
    record: dict[str, Any]

    @property
    def results(self) -> dict[str, dict[str, dict[str, Any]]]:
        """``{model: {split: metrics}}``."""
        return self.record["results"]  # type: ignore[no-any-return]

    def __str__(self) -> str:
        return results_table(self.results)

    def __fspath__(self) -> str:
        return str(self.folder)


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one or more models on the splits of a suite. Prints as a table."""

    results: dict[str, dict[str, dict[str, Any]]]

    def __str__(self) -> str:
        return results_table(self.results)


def finetune(
    model: str | Path,
    *,
    data: str | Path,
    out: str | Path,
    method: str | Method = "tracer",
    freeze: str = "none",
    train: TrainConfig | Mapping[str, Any] | None = None,
    teacher: TeacherConfig | Mapping[str, Any] | None = None,
    loss: LossConfig | Mapping[str, Any] | None = None,
    digits: DigitsConfig | Mapping[str, Any] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Finetune a dual encoder and evaluate what came out.

    Args:
        model: ``tiny``, ``tiny:random``, or a model or run folder.
        data: ``digits`` (embedded), or a folder with MNIST IDX files.
        out: folder to make for the run.
        method: a name from `list_methods`, or any object with the members of `Method`.
        freeze: ``none``, ``text`` or ``image``.
        train: length, rates and intervals; a mapping or the dataclass, as in `tracerft finetune --help`.
        teacher: the averaged model.
        loss: terms and their weights.
        digits: how digits are shown and named.
        resume: go on with a run that was cut off; a finished one is returned as it is.
        progress: called with the step and the loss terms after every step.

    Returns:
        The finished run.

    Raises:
        TracerftError: one line that names what is wrong and what to do.
    """
    config = FinetuneConfig(
        model=str(model),
        data=str(data),
        out=str(out),
        method=method if isinstance(method, str) else method.name,
        freeze=freeze,
        train=_group(TrainConfig, train, "train"),
        teacher=_group(TeacherConfig, teacher, "teacher"),
        loss=_group(LossConfig, loss, "loss"),
        digits=_group(DigitsConfig, digits, "digits"),
    )
    own = None if isinstance(method, str) else method
    return run_config(config, method=own, resume=resume, progress=progress)


def run_config(
    config: FinetuneConfig,
    *,
    method: Method | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    lean: bool = False,
) -> Run:
    """`finetune` for a whole configuration; ``method`` replaces the named one.

    ``lean`` is for studies of many runs: no predictions and no report of its own, and the start is evaluated once
    for all runs of a process that share it.
    """
    folder = Path(config.out)
    check(config)
    if resume and (folder / "record.json").is_file():
        return Run(folder, read_record(folder))
    started = time.perf_counter()
    device = pick_device(config.train.device)
    loaded = load_model(config.model, seed=config.train.seed)
    student = loaded.model.to(device)
    pretrained = copy.deepcopy(student).requires_grad_(False)
    freeze_towers(student, config.freeze)
    source, suite = _digits(config, loaded)
    plan = _plan(config, source, pretrained, device)
    method = method or build_method(config)
    _claim(folder, config, resume)
    probe = _probe(method, student, suite, loaded, config) if config.train.probe_every else None
    trainer = Trainer(student, method, source, plan, folder, probe=probe, progress=progress)
    if resume:
        for problem in trainer.resume():
            warnings.warn(f"passed over a checkpoint: {problem}", UserWarning, stacklevel=2)
    trainer.run()
    models = method.models()
    results = _evaluated(pretrained, models, suite, loaded, plan, None if lean else folder / "predictions")
    for name, finished in models.items():
        save_model(finished, folder / name)
    trained, total = num_parameters(student)
    versions = environment()
    record = {
        "tracerft": versions["tracerft"],
        "status": "finished",
        "method": config.method,
        "seed": config.train.seed,
        "config": asdict(config),
        "environment": versions,
        "data": {
            "train": {"n": len(source), "sha256": source.sha256},
            **{name: {"n": len(split), "sha256": split.sha256} for name, split in suite.splits().items()},
        },
        "parameters": {"trained": trained, "total": total},
        "pretrained_weight": getattr(getattr(method, "teacher", None), "pretrained_weight", None),
        "steps": plan.total_steps,
        "seconds": time.perf_counter() - started,
        "results": results,
    }
    write_json(folder / "record.json", record)
    if not lean:
        write_run_report(folder)
    return Run(folder, record)


_STARTS: dict[tuple[object, ...], dict[str, Any]] = {}


def _evaluated(
    pretrained: nn.Module,
    models: Mapping[str, nn.Module],
    suite: Suite,
    loaded: LoadedModel,
    plan: Plan,
    predictions: Path | None,
) -> dict[str, dict[str, Any]]:
    """Metrics of the start and of what came out; without ``predictions`` a known start is not evaluated again."""
    splits = suite.splits()
    if predictions is not None:
        return evaluate_models({"pretrained": pretrained, **models}, splits, loaded.tokenize, predictions)
    key = (plan.fingerprint["model_sha256"], *(split.sha256 for split in splits.values()))
    if key not in _STARTS:
        _STARTS[key] = evaluate_models({"pretrained": pretrained}, splits, loaded.tokenize)["pretrained"]
    return {"pretrained": _STARTS[key], **evaluate_models(models, splits, loaded.tokenize)}


def evaluate(
    model: str | Path | Run, suite: str | Path | None = None, *, interpolate: int = 0, predictions: Path | None = None
) -> Evaluation:
    """Evaluate a model, or all models of a run, on every split of a suite.

    Args:
        model: a run (its student, teacher and start are evaluated) or anything `load_model` reads.
        suite: ``digits`` or a folder with MNIST IDX files; by default what the run was made with.
        interpolate: number of points from the pretrained weights to student and teacher, ends included
            (WiSE-FT); 0 for none, 11 for steps of 0.1.
        predictions: folder to keep logits and labels in.

    Raises:
        TracerftError: one line that names what is wrong and what to do.
    """
    if interpolate < 0 or interpolate == 1:
        raise ArgumentError(f"`interpolate` must be 0 or at least 2 points; got {interpolate}; 11 gives steps of 0.1")
    folder = Path(model) if not isinstance(model, Run) else model.folder
    if not (folder / "config.yaml").is_file():
        if interpolate:
            raise ArgumentError("`interpolate` needs a run folder, which knows where it started; got a single model")
        loaded = load_model(model if not isinstance(model, Run) else folder)
        splits = digit_suite(_folder(str(suite or "digits")), "coloured", None).splits()
        return Evaluation(evaluate_models({"model": loaded.model}, splits, loaded.tokenize, predictions))
    config = read_config(folder / "config.yaml")
    start = load_model(config.model, seed=config.train.seed)
    names = [n for n in ("student", "teacher") if (folder / n).is_dir()]
    if not names:
        raise DataError(f"{folder}: the run is not finished; go on with `tracerft finetune --resume {folder}`")
    models: dict[str, nn.Module] = {"pretrained": start.model}
    for name in names:
        end = load_model(folder / name).model
        models[name] = end
        models |= wise_path(name, start.model, end, interpolate)
    if suite is None:  # the splits of the record, those for selection included
        splits = _digits(config, start)[1].splits()
    else:
        splits = digit_suite(_folder(str(suite)), config.digits.task, None).splits()  # type: ignore[arg-type]
    return Evaluation(evaluate_models(models, splits, start.tokenize, predictions))


def wise_path(name: str, start: nn.Module, end: nn.Module, points: int) -> dict[str, nn.Module]:
    """Models on the straight line from ``start`` to ``end``, the ends left out: ``<name>-wise-0.10`` and so on."""
    alphas = [i / (points - 1) for i in range(1, points - 1)]
    return {f"{name}-wise-{alpha:.2f}": weight_average(start, end, alpha) for alpha in alphas}


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


def read_config(path: Path) -> FinetuneConfig:
    """Read the configuration that a run wrote."""
    try:
        raw = yaml.safe_load(path.read_text())
        groups = {"train": TrainConfig, "teacher": TeacherConfig, "loss": LossConfig, "digits": DigitsConfig}
        raw |= {name: kind(**raw.get(name, {})) for name, kind in groups.items()}
        return FinetuneConfig(**raw)
    except (OSError, yaml.YAMLError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: not the configuration of a run ({reason}); was it edited by hand?") from error


T = TypeVar("T")


def _group(kind: type[T], value: T | Mapping[str, Any] | None, name: str) -> T:
    if value is None or isinstance(value, Mapping):
        names = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
        for key in value or {}:
            if key not in names:
                raise ArgumentError(f"unknown option `{name}.{key}`{did_you_mean(key, names)}")
        return kind(**(value or {}))
    return value


def _folder(data: str) -> Path | None:
    if data == "digits":
        return None
    if not Path(data).is_dir():
        raise DataError(f"`data` {data!r} is not a folder; expected digits, or a folder with MNIST IDX files")
    return Path(data)


def _digits(config: FinetuneConfig, loaded: LoadedModel) -> tuple[DigitSet, Suite]:
    """Training set, and the suite with the held-out rest of the training digits."""
    options, folder = config.digits, _folder(config.data)
    pool = load_digits(folder, "train")
    pool = (without_embedded(pool) if options.without_embedded else pool).part(options.start, options.count)
    kept = len(pool) - round(len(pool) * options.hold_out)
    shown = {"task": options.task, "agreement": options.agreement, "seed": config.train.seed}
    train = DigitSet(pool.part(0, kept), tokenize=loaded.tokenize, **shown)  # type: ignore[arg-type]
    held_out = DigitSet(pool.part(kept, None), **shown) if kept < len(pool) else None  # type: ignore[arg-type]
    return train, digit_suite(folder, train.task, held_out)


def _plan(config: FinetuneConfig, source: DigitSet, pretrained: nn.Module, device: torch.device) -> Plan:
    t = config.train
    per_epoch = steps_per_epoch(len(source), t.batch_size)
    total = t.steps if t.steps is not None else t.epochs * per_epoch
    same = asdict(config) | {"data_sha256": source.sha256, "model_sha256": _sha256(pretrained.state_dict())}
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
    if not resume and folder.exists() and any(folder.iterdir()):
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


def _probe(method: Method, student: nn.Module, suite: Suite, loaded: LoadedModel, config: FinetuneConfig) -> Probe:
    """Teacher-student gap on held-out images; empty for a method without a teacher."""
    split = suite.selection.get("id", suite.id)
    images = next(iter(split.image_batches())).to(next(student.parameters()).device)

    def measure(step: int) -> Mapping[str, float]:
        teacher = getattr(method, "teacher", None)
        if teacher is None:
            return {}
        return teacher_student_gap(teacher.averaged, student, images, split.captions, loaded.tokenize)

    return measure


def _sha256(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
