"""The public calls: configuration in, a run folder or an evaluation out. Holds no mathematics."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tracerft.config import (
    ColumnsConfig,
    DigitsConfig,
    FinetuneConfig,
    GuardConfig,
    LoraConfig,
    LossConfig,
    TeacherConfig,
    TrainConfig,
    group,
)
from tracerft.config_rules import check
from tracerft.distributed import joined
from tracerft.errors import ArgumentError
from tracerft.evaluating import Evaluation as Evaluation
from tracerft.evaluating import evaluate_two, finished, scored
from tracerft.evaluating import wise_path as wise_path
from tracerft.evaluation.dawin import dawin_results
from tracerft.evaluation.examples import save_examples
from tracerft.methods import Method
from tracerft.models.encoder import LoadedModel
from tracerft.models.head import match_head
from tracerft.models.weights import load_model
from tracerft.preparing import Ready, prepare, refuse_unused
from tracerft.reports.record import read_record
from tracerft.reports.run import write_run_report
from tracerft.reports.terminal import guard_lines, results_table
from tracerft.running import execute
from tracerft.sources import Parts, model_suite, read_parts, run_suite
from tracerft.training.loggers import logger_names
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
        return "\n".join([results_table(self.results), *guard_lines(self.record.get("guard") or {})])

    def __fspath__(self) -> str:
        return str(self.folder)


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
    pool: str | Path | None = None,
    probe: str = "sgd",
    log: str | None = None,
    examples: int = 6,
    columns: ColumnsConfig | Mapping[str, Any] | None = None,
    lora: LoraConfig | Mapping[str, Any] | None = None,
    train: TrainConfig | Mapping[str, Any] | None = None,
    teacher: TeacherConfig | Mapping[str, Any] | None = None,
    loss: LossConfig | Mapping[str, Any] | None = None,
    digits: DigitsConfig | Mapping[str, Any] | None = None,
    guard: GuardConfig | Mapping[str, Any] | None = None,
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
        pool: of ``arf``, image-caption pairs to retrieve from.
        probe: of ``linear_probe`` and ``lp_ft``, ``sgd`` or ``lbfgs``.
        log: trackers that follow the run, names with commas.
        examples: images a split and direction in the report; 0 keeps none.
        columns: of a table; a mapping or the dataclass, as for all groups.
        lora: low-rank adapters.
        train: length, rates and intervals.
        teacher: the averaged model.
        loss: terms and their weights.
        digits: how digits are shown and named.
        guard: against forgetting.
        resume: go on with a run that was cut off; a finished one is returned as it is.
        progress: called with the step, the number of steps and the loss terms after every step.

    Returns:
        The finished run.

    Raises:
        TracerftError: one line that names what is wrong and what to do.
    """
    guarded = group(GuardConfig, guard, "guard")
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
        pool=None if pool is None else str(pool),
        probe=probe,
        log=log,
        examples=examples,
        columns=group(ColumnsConfig, columns, "columns"),
        lora=group(LoraConfig, lora, "lora"),
        train=group(TrainConfig, train, "train"),
        teacher=group(TeacherConfig, teacher, "teacher"),
        loss=group(LossConfig, loss, "loss"),
        digits=group(DigitsConfig, digits, "digits"),
        guard=replace(guarded, suite=None if guarded.suite is None else str(guarded.suite)),
    )
    own = None if isinstance(method, str) else method
    if own is None:
        refuse_unused(config, before=FinetuneConfig(model="", data="", out=""))
    return run_config(config, method=own, resume=resume, progress=progress)


def run_config(
    config: FinetuneConfig,
    *,
    method: Method | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    announce: Callable[[Ready], None] | None = None,
    lean: bool = False,
    read: ReadParts | None = None,
) -> Run:
    """`finetune` for a whole configuration.

    ``method`` replaces the named one; ``announce`` is told of the run before it starts; ``lean`` and ``read``, which
    reads data and suite, are for studies.
    """
    check(config)
    folder = Path(config.out)
    with joined(config.train.device) as world:
        if resume and (folder / "record.json").is_file():
            if not lean and world.rank == 0 and not (folder / "report.html").is_file():  # cut off between the two
                write_run_report(folder)
            return Run(folder, read_record(folder))
        ready = make_ready(config, method=method, read=read or partial(read_parts, world=world))
        if announce is not None and world.rank == 0:
            announce(ready)
        return Run(folder, execute(ready, resume=resume, progress=progress, lean=lean, world=world))


def make_ready(config: FinetuneConfig, *, method: Method | None = None, read: ReadParts = read_parts) -> Ready:
    """Read and build all that a run needs, and write nothing."""
    check(config)
    logger_names(config.log)
    loaded = load_model(config.model, seed=config.train.seed)
    return prepare(config, loaded, read(config, loaded), method)


def evaluate(
    model: str | Path | Run,
    suite: str | Path | None = None,
    *,
    against: str | Path | Run | None = None,
    interpolate: int = 0,
    dawin: bool = False,
    templates: str = "simple",
    predictions: Path | None = None,
) -> Evaluation:
    """Evaluate a model, or all models of one or two runs, on every split of a suite.

    Args:
        model: a run (its start, student and teacher are evaluated) or anything `load_model` reads.
        suite: a YAML of an ID set and shifts, one data set, or ``digits``; by default the run's own.
        against: a second run, evaluated on the same images with the classes and templates of the first; models are then
            called ``<folder>/student`` and so on. Held-out training data of the first run's suite is left out.
        interpolate: number of points from the pretrained weights to student and teacher, ends included
            (WiSE-FT; the head is built again at each); 0 for none, 11 for steps of 0.1.
        dawin: also mix start and student for groups of test images by their entropies (DaWin); transductive, and only
            for splits with labels.
        templates: of captions made from class names, for a model without a run.
        predictions: folder to keep logits and labels in, and of one run as many example images as its report has.

    Raises:
        TracerftError: one line that names what is wrong and what to do.
    """
    if interpolate < 0 or interpolate == 1:
        raise ArgumentError(f"`interpolate` must be 0 or at least 2 points; got {interpolate}; 11 gives steps of 0.1")
    folder, suite = _folder(model), None if suite is None else str(suite)
    if against is not None:
        if dawin:
            raise ArgumentError("`dawin` is of one run; leave it out with `against`")
        return evaluate_two(folder, _folder(against), suite, interpolate, predictions)
    if (folder / "config.yaml").is_file():
        run = finished(folder, interpolate)
        splits = run_suite(run.config, run.start, suite).splits()
        found = scored(run.models, splits, run.start.tokenize, predictions)
        if predictions is not None:
            save_examples(predictions, splits, run.config.examples)
        if dawin:
            student = run.models["student"]
            match_head(run.start.model, student)
            found.results["student-dawin"] = dawin_results(run.start.model, student, splits, run.start.tokenize)
        return found
    if interpolate or dawin:
        raise ArgumentError(
            "`interpolate` and `dawin` need a run folder, which knows where it started; got a single model"
        )
    loaded = load_model(str(model))
    if suite is None and loaded.image is not None:
        raise ArgumentError(f"`suite` must be given: {model} is a model, not a run, and has no data of its own")
    splits = model_suite(loaded, suite or "digits", templates).splits()
    return scored({"model": loaded.model}, splits, loaded.tokenize, predictions)


def _folder(model: str | Path | Run) -> Path:
    return model.folder if isinstance(model, Run) else Path(model)
