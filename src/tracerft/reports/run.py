"""A run's folder to its report.html: record.json and metrics.jsonl in, one page out.

Fractions of the record are printed in percent.
"""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracerft.errors import DataError, TracerftError
from tracerft.reports.blocks import Better, Cell, Column, Repeat, Section, Table
from tracerft.reports.forgetting import forgetting_sections
from tracerft.reports.guard import guard_sections
from tracerft.reports.html import page
from tracerft.reports.record import read_record, write_text
from tracerft.reports.tables import MISSING, number
from tracerft.reports.trade_off import run_trade_off
from tracerft.reports.training import training_sections

PRETRAINED = "pretrained"
# Key in the record -> head, unit, factor, decimals, better end.
_MEASURES: dict[str, tuple[str, str, float, int, Better]] = {
    "top1": ("Top-1", "%", 100.0, 1, "higher"),
    "top5": ("Top-5", "%", 100.0, 1, "higher"),
    "mean_per_class": ("Mean per class", "%", 100.0, 1, "higher"),
    "ece_10": ("ECE, 10 bins", "%", 100.0, 2, "lower"),
    "ece_15": ("ECE, 15 bins", "%", 100.0, 2, "lower"),
    "ece_per_batch_10": ("ECE per batch", "%", 100.0, 2, "lower"),
    "nll": ("NLL", "nats", 1.0, 3, "lower"),
    "brier": ("Brier", "", 1.0, 3, "lower"),
    "macro_f1": ("Macro F1", "%", 100.0, 1, "higher"),
    "worst_group": ("Worst group", "%", 100.0, 1, "higher"),
    "image_to_text_r1": ("Image to text R@1", "%", 100.0, 1, "higher"),
    "text_to_image_r1": ("Text to image R@1", "%", 100.0, 1, "higher"),
}
Results = Mapping[str, Mapping[str, Mapping[str, Any]]]


def write_run_report(folder: Path) -> Path:
    """Write ``report.html`` of one finished run.

    Args:
        folder: the run's folder with record.json and, after training, metrics.jsonl.

    Returns:
        Path of the page.

    Raises:
        DataError: if the run has not finished, or a file is damaged.
    """
    folder = Path(folder)
    record = read_record(folder)
    try:
        return _written(folder, record)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        if isinstance(error, TracerftError):
            raise
        reason = " ".join(repr(error).split())[:200]
        raise DataError(f"{folder}: record or log hold what no run writes ({reason}); restore them") from error


def _written(folder: Path, record: Mapping[str, Any]) -> Path:
    results: Results = record["results"]
    sections: list[Section] = [
        *run_trade_off(folder, record), *forgetting_sections(folder, record), _measures(results),
        *training_sections(folder, record), _repeat(folder, record),
    ]  # fmt: skip
    if any(_has(scores) for of_model in results.values() for scores in of_model.values()):
        sections.insert(0, _accuracies(results))
    if record.get("guard"):
        sections[-1:-1] = guard_sections(record["guard"])
    path = folder / "report.html"
    title = f"{record.get('method') or 'Evaluation'}: {folder.resolve().name}"
    write_text(path, page(title, _headline(record), sections, record))
    return path


def duration(seconds: float | None) -> str | None:
    """Seconds as ``42 s``, ``3 min 20 s`` or ``2 h 5 min``."""
    if seconds is None:
        return None
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _headline(record: Mapping[str, Any]) -> list[str]:
    """What was run, the gain on ``id`` and the loss on each shift, for every model against the pretrained one."""
    results: Results = record["results"]
    steps = f", {record['steps']} steps" if record.get("steps") else ""
    splits = _splits(results)
    lines = [
        f"Method {record.get('method') or MISSING}, seed {record.get('seed', MISSING)}{steps}; models evaluated: "
        f"{', '.join(results)}; on {', '.join(splits) or 'nothing'}."
    ]
    start = results.get(PRETRAINED, {})
    for model, scores in results.items():
        if model == PRETRAINED or "-wise-" in model:
            continue
        parts = [_change(split, scores[split], start.get(split)) for split in splits if _has(scores.get(split))]
        if parts:
            lines.append(f"{model[:1].upper()}{model[1:]}: {'; '.join(parts)}.")
    if len(lines) > 1 and start:
        lines.append("Changes are in points of top-1 accuracy against the pretrained model.")
    return lines


def _change(split: str, scores: Mapping[str, Any], start: Mapping[str, Any] | None) -> str:
    text = f"{split} {number(100 * scores['top1'])}\N{NO-BREAK SPACE}%"
    if start is None or not _has(start):
        return text
    points = 100 * (scores["top1"] - start["top1"])
    sign = "+" if points > 0 else ""
    return f"{text} ({sign}{number(points)})"


def _has(scores: Mapping[str, Any] | None) -> bool:
    return bool(scores) and isinstance((scores or {}).get("top1"), (int, float))


def _splits(results: Results) -> list[str]:
    """Every split in order of appearance, ``id`` first."""
    names = dict.fromkeys(split for scores in results.values() for split in scores)
    return sorted(names, key=lambda name: name != "id")


def _accuracies(results: Results) -> Table:
    """Models down, splits across; each accuracy with its interval. Splits that are retrieved have none."""
    splits = [s for s in _splits(results) if any(_has(of_model.get(s)) for of_model in results.values())]
    best = {s: max((m[s]["top1"] for m in results.values() if _has(m.get(s))), default=None) for s in splits}
    rows = []
    for model, scores in results.items():
        cells = [_accuracy(scores.get(split), best[split] if len(results) > 1 else None) for split in splits]
        rows.append([Cell(model, model), *cells])
    columns = [Column("Model", numeric=False), *(Column(split, "%", "higher") for split in splits)]
    note = (
        "Top-1 accuracy with the 95 % Wilson interval of the test set's size; it says nothing about another seed. "
        "Bold is the best of the column."
    )
    return Table("Accuracy", columns, rows, note)


def _accuracy(scores: Mapping[str, Any] | None, best: float | None) -> Cell:
    if scores is None or not _has(scores):
        return Cell(MISSING)
    interval = scores.get("top1_ci95")
    between = f" [{number(100 * interval[0])}, {number(100 * interval[1])}]" if interval else ""
    return Cell(number(100 * scores["top1"]) + between, scores["top1"], best=scores["top1"] == best)


def _measures(results: Results) -> Table:
    """Every measure, one line a model and split."""
    columns = [Column("Model", numeric=False), Column("Split", numeric=False), Column("n", better="higher")]
    seen = {key for by_split in results.values() for scores in by_split.values() for key in scores}
    shown = {key: measure for key, measure in _MEASURES.items() if key in seen}
    columns += [Column(label, unit, better=better) for label, unit, _, _, better in shown.values()]
    rows = []
    for model, by_split in results.items():
        for split, scores in by_split.items():
            line = [Cell(model, model), Cell(split, split), Cell(str(scores.get("n", MISSING)), scores.get("n"))]
            for key, (_, _, factor, digits, _) in shown.items():
                value = scores.get(key)
                line.append(Cell(MISSING) if value is None else Cell(number(factor * value, digits), value))
            rows.append(line)
    return Table("All measures", columns, rows, "ECE per batch is for comparison with published figures only.", True)


def _repeat(folder: Path, record: Mapping[str, Any]) -> Repeat:
    config = folder / "config.yaml"
    command = f"tracerft finetune --config {shlex.quote(str(config))} --out NEW_FOLDER" if config.exists() else ""
    data = {split: _described(entry) for split, entry in (record.get("data") or {}).items()}
    origin = {
        "method": record.get("method"), "seed": record.get("seed"), "steps": record.get("steps"),
        "time": duration(record.get("seconds")), "tracerft": record.get("tracerft"),
    }  # fmt: skip
    facts = {
        "Settings": record.get("config") or {},
        "Data": data,
        "Environment": record.get("environment") or {},
        "Origin": {key: value for key, value in origin.items() if value is not None},
    }
    return Repeat("How to repeat it", command, facts)


def _described(entry: object) -> str:
    """Size and the start of the hash of one split."""
    if not isinstance(entry, Mapping):
        return str(entry)
    digest = entry.get("sha256")
    return f"{entry.get('n', MISSING)} samples" + (f", sha256 {str(digest)[:16]}" if digest else "")
