"""The public calls: configuration in, a run folder or an evaluation out. Holds no mathematics."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from tracerft.averaging import interpolate as weight_average
from tracerft.config import (
    ColumnsConfig,
    DigitsConfig,
    FinetuneConfig,
    LoraConfig,
    LossConfig,
    TeacherConfig,
    TrainConfig,
    check,
    group,
    read_config,
)
from tracerft.errors import ArgumentError, DataError
from tracerft.evaluation.suite import Hits, evaluate_models
from tracerft.methods import Method
from tracerft.models.encoder import LoadedModel
from tracerft.models.weights import load_model
from tracerft.reports.record import read_record
from tracerft.reports.terminal import results_table
from tracerft.running import Ready, execute, prepare
from tracerft.sources import Parts, model_suite, read_parts, run_suite
from tracerft.training.trainer import Progress

ReadParts = Callable[[FinetuneConfig, LoadedModel], Parts]


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
    """Metrics of one or more models on the splits of a suite. Prints as a table.

    Args:
        results: ``{model: {split: metrics}}``.
        hits: ``{split: {model: (n,) bool}}``, which images of each labelled split a model got right.
    """

    results: dict[str, dict[str, dict[str, Any]]]
    hits: Hits = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        return results_table(self.results)


def finetune(
    model: str | Path,
    *,
    data: str | Path,
    out: str | Path,
    method: str | Method = "tracer",
    freeze: str = "none",
    suite: str | Path | None = None,
    templates: str = "simple",
    classes: str | Path | None = None,
    hold_out: float = 0.1,
    broken: str = "error",
    augment: bool = True,
    columns: ColumnsConfig | Mapping[str, Any] | None = None,
    lora: LoraConfig | Mapping[str, Any] | None = None,
    train: TrainConfig | Mapping[str, Any] | None = None,
    teacher: TeacherConfig | Mapping[str, Any] | None = None,
    loss: LossConfig | Mapping[str, Any] | None = None,
    digits: DigitsConfig | Mapping[str, Any] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Finetune a dual encoder and evaluate what came out; options are those of `tracerft finetune --help`.

    Args:
        model: anything `load_model` reads.
        data: class folders, a folder or table of images with captions, tars, a saved data set, or ``digits``.
        out: folder to make for the run.
        method: a name from `list_methods`, or any object with the members of `Method`.
        freeze: ``none``, ``text`` or ``image``.
        suite: YAML of an ID set and shifts, or one data set; by default what is held out.
        templates: of captions made from class names.
        classes: file of class names.
        hold_out: share of the training data kept out, in [0, 1).
        broken: ``error`` or ``skip``.
        augment: random crops of training images.
        columns: of a table; a mapping or the dataclass, as for all groups.
        lora: low-rank adapters.
        train: length, rates and intervals.
        teacher: the averaged model.
        loss: terms and their weights.
        digits: how digits are shown and named.
        resume: go on with a run that was cut off; a finished one is returned as it is.
        progress: called with the step, the number of steps and the loss terms after every step.

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
        suite=None if suite is None else str(suite),
        templates=templates,
        classes=None if classes is None else str(classes),
        hold_out=hold_out,
        broken=broken,
        augment=augment,
        columns=group(ColumnsConfig, columns, "columns"),
        lora=group(LoraConfig, lora, "lora"),
        train=group(TrainConfig, train, "train"),
        teacher=group(TeacherConfig, teacher, "teacher"),
        loss=group(LossConfig, loss, "loss"),
        digits=group(DigitsConfig, digits, "digits"),
    )
    own = None if isinstance(method, str) else method
    return run_config(config, method=own, resume=resume, progress=progress)


def run_config(
    config: FinetuneConfig,
    *,
    method: Method | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    announce: Callable[[Ready], None] | None = None,
    lean: bool = False,
    read: ReadParts = read_parts,
) -> Run:
    """`finetune` for a whole configuration.

    ``method`` replaces the named one; ``announce`` is told of the run before it starts; ``lean`` and ``read``, which
    reads data and suite, are for studies.
    """
    check(config)
    folder = Path(config.out)
    if resume and (folder / "record.json").is_file():
        return Run(folder, read_record(folder))
    ready = make_ready(config, method=method, read=read)
    if announce is not None:
        announce(ready)
    return Run(folder, execute(ready, resume=resume, progress=progress, lean=lean))


def make_ready(config: FinetuneConfig, *, method: Method | None = None, read: ReadParts = read_parts) -> Ready:
    """Read and build all that a run needs, and write nothing."""
    check(config)
    loaded = load_model(config.model, seed=config.train.seed)
    return prepare(config, loaded, read(config, loaded), method)


def evaluate(
    model: str | Path | Run,
    suite: str | Path | None = None,
    *,
    interpolate: int = 0,
    templates: str = "simple",
    predictions: Path | None = None,
) -> Evaluation:
    """Evaluate a model, or all models of a run, on every split of a suite.

    Args:
        model: a run (its start, student and teacher are evaluated) or anything `load_model` reads.
        suite: a YAML of an ID set and shifts, one data set, or ``digits``; by default the run's own.
        interpolate: number of points from the pretrained weights to student and teacher, ends included
            (WiSE-FT; the head is built again at each); 0 for none, 11 for steps of 0.1.
        templates: of captions made from class names, for a model without a run.
        predictions: folder to keep logits and labels in.

    Raises:
        TracerftError: one line that names what is wrong and what to do.
    """
    if interpolate < 0 or interpolate == 1:
        raise ArgumentError(f"`interpolate` must be 0 or at least 2 points; got {interpolate}; 11 gives steps of 0.1")
    folder = model.folder if isinstance(model, Run) else Path(model)
    hits: Hits = {}
    if not (folder / "config.yaml").is_file():
        if interpolate:
            raise ArgumentError("`interpolate` needs a run folder, which knows where it started; got a single model")
        loaded = load_model(str(model))
        if suite is None and loaded.image is not None:
            raise ArgumentError(f"`suite` must be given: {model} is a model, not a run, and has no data of its own")
        splits = model_suite(loaded, str(suite or "digits"), templates).splits()
        return Evaluation(evaluate_models({"model": loaded.model}, splits, loaded.tokenize, predictions, hits), hits)
    config = read_config(folder / "config.yaml")
    names = [n for n in ("student", "teacher") if (folder / n).is_dir()]
    if not names:
        raise DataError(f"{folder}: the run is not finished; go on with `tracerft finetune --resume {folder}`")
    start = load_model(config.model, seed=config.train.seed)
    models: dict[str, nn.Module] = {"pretrained": start.model}
    for name in names:
        end = load_model(folder / name).model
        models[name] = end
        models |= wise_path(name, start.model, end, interpolate)
    splits = run_suite(config, start, None if suite is None else str(suite)).splits()
    return Evaluation(evaluate_models(models, splits, start.tokenize, predictions, hits), hits)


def wise_path(name: str, start: nn.Module, end: nn.Module, points: int) -> dict[str, nn.Module]:
    """Models on the straight line from ``start`` to ``end``, the ends left out: ``<name>-wise-0.10`` and so on."""
    alphas = [i / (points - 1) for i in range(1, points - 1)]
    return {f"{name}-wise-{alpha:.2f}": weight_average(start, end, alpha) for alpha in alphas}
