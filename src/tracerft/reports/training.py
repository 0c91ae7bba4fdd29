"""What happened while a run trained: its losses, the gap between teacher and student, and how far each layer moved."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tracerft.reports import figures
from tracerft.reports.blocks import Cell, Column, Figure, Figures, Section, Table
from tracerft.reports.log import finite, read_log
from tracerft.reports.tables import MISSING, number
from tracerft.reports.trade_off import drawn

# Logged beside the loss, on scales of their own.
_GAPS = {"gap_kl": "KL(teacher || student)", "teacher_entropy": "entropy of the teacher"}
_NOT_LOSSES = {
    *("step", "epoch", "samples", "lr", "learning_rate", "weight_decay", "scale", "logit_scale", "grad_norm"),
    *("gap_weights", "teacher_confidence", *_GAPS),
    *("gradient_norm", "seconds", "time", "memory", "samples_per_second", "images_per_second", "pretrained_weight"),
}
Log = Sequence[Mapping[str, Any]]


def training_sections(folder: Path, record: Mapping[str, Any]) -> list[Section]:
    """Sections "Learning curves", "Teacher and student" and "Drift per layer", each where a run has what it shows."""
    log = [line for line in read_log(folder / "metrics.jsonl") if finite(line.get("step"))]
    return [*_curves(log), *_gap(log), *_drift(record.get("drift") or {})]


def _lines(log: Log, keys: Mapping[str, str]) -> list[dict[str, Any]]:
    """One line a key that was logged twice or more, under its label."""
    lines = []
    for key, label in keys.items():
        points = [(line["step"], line[key]) for line in log if finite(line.get(key))]
        if len(points) > 1:
            lines.append({"label": label, "x": [x for x, _ in points], "y": [y for _, y in points]})
    return lines


def _curves(log: Log) -> list[Section]:
    """The loss and its parts over training; nothing where the run kept no log."""
    keys = dict.fromkeys(key for line in log for key, value in line.items() if finite(value))
    losses = [key for key in keys if key not in _NOT_LOSSES and not key.startswith("guard_")]
    lines = _lines(log, {key: key for key in sorted(losses, key=lambda name: name != "loss")})
    if not lines:
        return []
    caption = "The loss and its parts, each before its weight, as logged during training."
    return [drawn("Learning curves", figures.curves(lines, y_label="loss"), "loss-", caption)]


def _gap(log: Log) -> list[Section]:
    """How far teacher and student were apart, where ``train.probe_every`` asked for it."""
    predictions = _lines(log, _GAPS)
    weights = _lines(log, {"gap_weights": "distance of the weights"})
    drawings = []
    if predictions:
        svg = figures.curves(predictions, y_label="nats")
        caption = "On held-out images: how much the student's predictions differ, and how open the teacher's are."
        drawings.append(drawn("Predictions", svg, "gap-", caption))
    if weights:
        svg = figures.curves(weights, y_label="L2 distance")
        drawings.append(drawn("Weights", svg, "gap-w-", "The L2 norm of student minus teacher, over all parameters."))
    return [Figures("Teacher and student", drawings)] if drawings else []


def _drift(moved: Mapping[str, Mapping[str, float]]) -> list[Section]:
    """A table of all layers, and lines over the numbered ones."""
    layers = list(dict.fromkeys(layer for of in moved.values() for layer in of))
    if not layers:
        return []
    columns = [Column("Layer", numeric=False), *(Column(model, "%") for model in moved)]
    rows = [[Cell(layer, layer), *(_percent(of.get(layer)) for of in moved.values())] for layer in layers]
    note = "How far the weights of each layer are from the pretrained ones: |W - W0| / |W0|. A frozen layer has 0."
    return [*_drift_lines(moved, layers), Table("Drift of every layer", columns, rows, note, collapsed=True)]


def _drift_lines(moved: Mapping[str, Mapping[str, float]], layers: Sequence[str]) -> list[Figure]:
    chains: dict[str, list[int]] = {}
    for layer in layers:
        chain, _, last = layer.rpartition(".")
        if last.isdecimal():
            chains.setdefault(chain, []).append(int(last))
    lines = []
    for chain, blocks in chains.items():
        for model, of in moved.items():
            points = [(n, 100 * of[f"{chain}.{n}"]) for n in blocks if f"{chain}.{n}" in of]
            if len(points) > 1 and any(y for _, y in points):
                xs, ys = zip(*points, strict=True)
                lines.append({"label": f"{model}: {chain}", "x": list(xs), "y": list(ys)})
    if not lines:
        return []
    caption = (
        "How far the weights of each block are from the pretrained ones, |W - W0| / |W0|; frozen towers are left out."
    )
    return [drawn("Drift per layer", figures.curves(lines, x_label="block", y_label="%"), "drift-", caption)]


def _percent(value: float | None) -> Cell:
    return Cell(MISSING) if value is None else Cell(number(100 * value, 2), value)
