"""What a run forgot, class by class, and how far its confidence can be trusted; from kept predictions alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tracerft.errors import DataError
from tracerft.reports import figures
from tracerft.reports.blocks import Cell, Column, Figure, Figures, Section, Table, Text
from tracerft.reports.examples import example_sections
from tracerft.reports.predicted import Predicted, binned, calibration_error, read_predicted
from tracerft.reports.svg import inline_text
from tracerft.reports.tables import number

START, END = "pretrained", "student"
DRAWN = (START, END, "teacher", "average")
TOP = 10  # classes a shift
FEW = 5  # images of a class, below which its accuracy says nothing
THIN = 10  # images of a bin, below which it is not drawn


def forgetting_sections(folder: Path, record: Mapping[str, Any]) -> list[Section]:
    """Sections "What was forgotten", "Examples", "Reliability"; none where a run kept no predictions of classes.

    Args:
        folder: the run's folder.
        record: its record; models and splits are those of its results.

    Raises:
        DataError: if a file of predictions or examples is damaged, or two models answered on other images.
    """
    splits = [
        s for s in dict.fromkeys(s for of in record["results"].values() for s in of) if not s.startswith("select-")
    ]
    found: dict[str, dict[str, Predicted]] = {}
    for model in (m for m in DRAWN if m in record["results"]):
        for split in splits:
            predicted = read_predicted(folder / "predictions" / model / f"{split}.safetensors")
            if predicted is not None:
                found.setdefault(model, {})[split] = predicted
    pairs = {
        s: _pair(s, found[START][s], found[END][s]) for s in splits if all(s in found.get(m, {}) for m in (START, END))
    }
    names = {s: class_names(record, s, start.num_classes) for s, (start, _) in pairs.items()}
    shifts = {split: pair for split, pair in pairs.items() if split != "id"}
    sections: list[Section] = []
    if shifts:
        sections.append(_forgotten(shifts, names, own="class_lists" in record))
    return [*sections, *example_sections(folder / "predictions" / "examples", pairs, names), *_reliability(found)]


def _pair(split: str, start: Predicted, end: Predicted) -> tuple[Predicted, Predicted]:
    import numpy as np

    if start.num_classes != end.num_classes or not np.array_equal(start.labels, end.labels):
        raise DataError(
            f"predictions of {START} and {END} on {split} must be of the same images; got others; evaluate the run "
            "again, or delete the folder `predictions`"
        )
    return start, end


def class_names(record: Mapping[str, Any], split: str, num_classes: int) -> list[str]:
    """Names of a split's scored classes by id; those of the task where a record is older than the lists of splits.

    Numbers, if there are not as many names as classes.
    """
    names, lists = record.get("classes") or [], record.get("class_lists")
    if lists is not None:
        place = (record["data"].get(split) or {}).get("class_list")
        names = [] if place is None else lists[place]
    return list(map(str, names)) if len(names) == num_classes else [f"class {c}" for c in range(num_classes)]


def _forgotten(
    pairs: Mapping[str, tuple[Predicted, Predicted]], classes: Mapping[str, Sequence[str]], *, own: bool
) -> Section:
    """Classes with the largest drop of each shift, largest first; ``own`` says that the names are each split's."""
    rows: list[list[Cell]] = []
    counts = []
    for split, (start, end) in pairs.items():
        of_split, fell, judged = _drops(split, start, end, classes[split])
        rows += of_split
        counts.append(f"{split}: {fell} of {judged} classes")
    title, said = "What was forgotten", f"Classes that lost accuracy: {'; '.join(counts)}."
    if not rows:
        return Text(title, [f"No class of a shift lost accuracy from the pretrained model to the student. {said}"])
    columns = [
        Column("Class", numeric=False), Column("Shift", numeric=False), Column("Images", better="higher"),
        Column("Pretrained", "%", "higher"), Column("Student", "%", "higher"), Column("Change", "points", "lower"),
        Column("Newly wrong", better="higher"), Column("Newly right", better="higher"),
    ]  # fmt: skip
    note = (
        f"{said} Shown are the {TOP} largest drops of each shift, of classes with {FEW} or more images. They were "
        "picked for being the largest, so with few images a class part of each is chance."
    )
    if not own:
        note += " The record is older than class names of shifts: they are the task's, wherever as many."
    return Table(title, columns, rows, note)


def _drops(split: str, start: Predicted, end: Predicted, classes: Sequence[str]) -> tuple[list[list[Cell]], int, int]:
    """Rows of the largest drops of one shift, how many classes fell, and how many have images enough."""
    import numpy as np

    labels, size = start.labels, start.num_classes
    before, after = start.guesses == labels, end.guesses == labels
    n, right, kept, lost, won = (
        np.bincount(labels[mask], minlength=size)
        for mask in (slice(None), before, after, before & ~after, after & ~before)
    )
    judged = [c for c in range(size) if n[c] >= FEW]
    fell = [c for c in judged if kept[c] < right[c]]
    fell.sort(key=lambda c: ((kept[c] - right[c]) / n[c], -n[c], c))
    rows = [
        [
            Cell(classes[c], classes[c]), Cell(split, split), _count(n[c]),
            *(_percent(x[c] / n[c]) for x in (right, kept, kept - right)), _count(lost[c]), _count(won[c]),
        ]
        for c in fell[:TOP]
    ]  # fmt: skip
    return rows, len(fell), len(judged)


def _reliability(found: Mapping[str, Mapping[str, Predicted]]) -> list[Section]:
    """Reliability diagrams of ``id`` and of the shifts."""
    shifts = [s for s in dict.fromkeys(s for of in found.values() for s in of) if s != "id"]
    drawings = []
    for title, splits, prefix in (("id", ["id"], "rel-id-"), ("Mean of the shifts", shifts, "rel-ood-")):
        models = {
            name: [of[s] for s in splits] for name, of in found.items() if splits and all(s in of for s in splits)
        }
        if models:
            drawings.append(_diagram(title, models, prefix))
    return [Figures("Reliability", drawings)] if drawings else []


def _diagram(title: str, models: Mapping[str, Sequence[Predicted]], prefix: str) -> Figure:
    bins = {name: binned(sets) for name, sets in models.items()}
    errors = {name: f"{name}, ECE {number(100 * calibration_error(of))} %" for name, of in bins.items()}
    lines = [
        {
            "label": errors[name],
            "x": [100 * b.confidence for b in of if b.n >= THIN],
            "y": [100 * b.accuracy for b in of if b.n >= THIN],
        }
        for name, of in bins.items()
    ]
    svg = inline_text(figures.reliability(lines), prefix, "the reliability diagram")
    each = "" if title == "id" else "; every shift counts the same, whatever its size"
    caption = (
        f"Accuracy against confidence in 10 bins of equal width{each}. Below the diagonal a model is surer than it is "
        f"right. Bins of fewer than {THIN} images are not drawn but count in the ECE."
    )
    return Figure(title, svg, caption, f"Reliability on {title}: {'; '.join(errors.values())}.")


def _percent(value: float) -> Cell:
    return Cell(number(100 * float(value)), float(value))


def _count(value: int) -> Cell:
    return Cell(str(value), int(value))
