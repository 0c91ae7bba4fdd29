"""Models of finished runs on a suite: what each answers, and two runs on the same images."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tracerft.config import FinetuneConfig, read_config
from tracerft.data.suite import Split, Suite
from tracerft.data.text import first_five
from tracerft.errors import ArgumentError, DataError
from tracerft.evaluation.points import Line, Point
from tracerft.evaluation.resampling import Answers
from tracerft.evaluation.suite import Tokenize, scores
from tracerft.models.encoder import LoadedModel
from tracerft.models.head import match_head
from tracerft.models.weights import load_model, pick_device
from tracerft.reports.record import read_record
from tracerft.reports.terminal import results_table
from tracerft.sources import is_digits, run_suite


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one or more models on the splits of a suite. Prints as a table.

    Args:
        results: ``{model: {split: metrics}}``.
        answers: what the models answered on each labelled split, for paired differences.
    """

    results: dict[str, dict[str, dict[str, Any]]]
    answers: dict[str, Answers] = field(default_factory=dict, repr=False)

    @property
    def hits(self) -> dict[str, dict[str, Tensor]]:
        """``{split: {model: (n,) bool}}``, which images of each labelled split a model got right."""
        return {split: {model: found.hits(model) for model in found.guesses} for split, found in self.answers.items()}

    def __str__(self) -> str:
        return results_table(self.results)


@dataclass(frozen=True)
class Finished:
    """A run that can be evaluated: where it lies, how it was made, its start, and its models with the start's."""

    folder: Path
    config: FinetuneConfig
    start: LoadedModel
    models: dict[str, nn.Module]


def finished(folder: Path, interpolate: int = 0) -> Finished:
    """Read what a run made, with ``interpolate`` points on the line from its start.

    Raises:
        DataError: if the run is not finished.
    """
    config = read_config(folder / "config.yaml")
    names = [n for n in ("student", "teacher", "average", "guarded") if (folder / n).is_dir()]
    if not names:
        raise DataError(f"{folder}: the run is not finished; go on with `tracerft finetune --resume {folder}`")
    start = load_model(config.model, seed=config.train.seed)
    models: dict[str, nn.Module] = {"pretrained": start.model}
    for name in names:
        end = load_model(folder / name).model
        models[name] = end
        if name != "guarded":  # lies on one of the other lines
            models |= wise_path(name, start.model, end, interpolate)
    return Finished(folder, config, start, models)


def scored(
    models: Mapping[str, nn.Module], splits: Mapping[str, Split], tokenize: Tokenize, predictions: Path | None
) -> Evaluation:
    """Evaluate models that read the same images and token ids; ``predictions`` is where logits and labels are kept.

    They are moved to the GPU where there is one.
    """
    device = pick_device("auto")
    for model in models.values():
        if not isinstance(model, Point):  # is made where its line's ends are
            model.to(device)
    found = Evaluation({name: {} for name in models})
    for split, name, (metrics, tensors) in scores(models, splits, tokenize, predictions):
        found.results[name][split] = metrics
        if "logits" in tensors:
            answers = found.answers.setdefault(split, _no_answers(splits[split], tensors["labels"]))
            answers.confidences[name], answers.guesses[name] = tensors["logits"].softmax(1).max(1)
    return found


def _no_answers(split: Split, labels: Tensor) -> Answers:
    return Answers(labels, metric=split.metric, groups=split.groups or (), ignored=split.ignored_groups)


def evaluate_two(
    folder: Path, against: Path, suite: str | None, interpolate: int, predictions: Path | None
) -> Evaluation:
    """Evaluate all models of two runs on one suite, in one pass over the images where both read them alike.

    Args:
        folder: the first run; its classes and templates hold for both.
        against: the second run.
        suite: as `evaluate` takes it; by default the first run's own without what it held out to choose on.
        interpolate: points on each run's line from its start.
        predictions: folder to keep logits and labels in.

    Raises:
        ArgumentError: if one is no run, both are one, their classes differ, or the second was trained on the images.
    """
    for path in (folder, against):
        if not (path / "config.yaml").is_file():
            raise ArgumentError(f"`against` compares two runs, and {path} is none; give the folders of finished runs")
    names = _short_names(folder, against)
    one, two = (finished(path, interpolate) for path in (folder, against))
    _refuse_unlike(one, two, suite)
    models = [{f"{n}/{k}": m for k, m in r.models.items()} for n, r in zip(names, (one, two), strict=True)]
    splits = _without_selection(run_suite(one.config, one.start, suite))
    if _read_alike(one.start, two.start, splits):
        return scored(models[0] | models[1], splits, one.start.tokenize, predictions)
    found = scored(models[0], splits, one.start.tokenize, predictions)
    splits = _without_selection(run_suite(one.config, two.start, suite))
    other = scored(models[1], splits, two.start.tokenize, predictions)
    for name, answers in other.answers.items():
        found.answers[name].guesses.update(answers.guesses)
        found.answers[name].confidences.update(answers.confidences)
    return Evaluation(found.results | other.results, found.answers)


def _short_names(one: Path, two: Path) -> tuple[str, str]:
    """The last parts of two paths, as many as tell them apart."""
    a, b = one.resolve().parts, two.resolve().parts
    if a == b:
        raise ArgumentError(f"`against` must be another run; got {two} twice; to compare its models use --compare")
    num = next(k for k in range(1, max(len(a), len(b)) + 1) if a[-k:] != b[-k:])
    return "/".join(a[-num:]), "/".join(b[-num:])


def _refuse_unlike(one: Finished, two: Finished, suite: str | None) -> None:
    """Two runs must have one set of classes, and neither may be evaluated on images that it was trained on."""
    classes, other = (read_record(run.folder)["classes"] for run in (one, two))
    if classes and other and classes != other:
        raise ArgumentError(
            f"`against` must have the classes of the first run, {first_five(classes)}; got {first_five(other)}; "
            "compare runs of one task"
        )
    if (one.start.image is None) != (two.start.image is None):
        raise ArgumentError("`against` must be a run that reads the same images; one reads 28x28 digits only")
    held_out = suite is None and one.config.suite is None and not is_digits(one.config.data)
    same_data = Path(one.config.data).resolve() == Path(two.config.data).resolve()
    if held_out and same_data and two.config.hold_out < one.config.hold_out:
        raise ArgumentError(
            f"`suite` must be given: {two.folder} was trained on images that {one.folder} held out and would be "
            "evaluated on; name other images, or turn the two around"
        )


def _without_selection(suite: Suite) -> dict[str, Split]:
    """What is reported; the second run may have been trained on what the first held out to choose on."""
    return {name: split for name, split in suite.splits().items() if not name.startswith("select-")}


def _read_alike(one: LoadedModel, two: LoadedModel, splits: Mapping[str, Split]) -> bool:
    """Whether two models take the same pixels and the same token ids for all that is asked."""
    captions = list(dict.fromkeys(text for split in splits.values() for texts in split.prompts for text in texts))
    return one.image == two.image and torch.equal(one.tokenize(captions), two.tokenize(captions))


def wise_path(name: str, start: nn.Module, end: nn.Module, points: int) -> dict[str, nn.Module]:
    """Models on the straight line from ``start`` to ``end``, the ends left out: ``<name>-wise-0.10`` and so on.

    Each is made when it is asked, and its neighbour is forgotten then, see `Line`. Where ``end`` has a class head,
    ``start`` is given the one that it began with.
    """
    match_head(start, end)
    alphas, line = [i / (points - 1) for i in range(1, points - 1)], Line(start, end)
    return {f"{name}-wise-{alpha:.2f}": line.point(alpha) for alpha in alphas}
