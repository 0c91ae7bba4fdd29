"""Finished runs to one page, comparison.html, with the table beside it as Markdown, CSV and LaTeX. Evaluates nothing.

Fractions of the records are printed in percent.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tracerft.errors import RunFolderError
from tracerft.reports import figures
from tracerft.reports.blocks import Better, Cell, Column, Figure, Figures, Repeat, Section, Table, Text
from tracerft.reports.compared import (
    Compared,
    Row,
    common_shifts,
    differences,
    legend_names,
    read_runs,
    rows_of,
    splits_of,
    warnings_of,
)
from tracerft.reports.guard import front_points
from tracerft.reports.html import page
from tracerft.reports.log import finite
from tracerft.reports.record import write_text
from tracerft.reports.run import duration
from tracerft.reports.tables import MISSING, csv_text, latex, markdown, number
from tracerft.reports.trade_off import drawn, trade_off

_UNPAIRED = (
    "Bold is the best of the column. The mean is over the shifts that all runs have. Whether two runs differ by more "
    "than chance needs both on the same images: tracerft evaluate RUN --against RUN."
)


def write_comparison(folders: Sequence[Path], out: Path) -> dict[str, Any]:
    """Write comparison.html, table.md, table.csv and table.tex about finished runs.

    Args:
        folders: of the runs, with record.json and, where there are learning curves to show, metrics.jsonl.
        out: folder to write to; made if it is not there. Files of an earlier comparison are replaced.

    Returns:
        ``{"runs", "shifts", "warnings", "rows"}`` as plain data; accuracies and errors are fractions.

    Raises:
        ArgumentError: if no run is named, or one twice.
        DataError: if a run is not finished or a file is damaged.
        RunFolderError: if ``out`` is the folder of a run or a study, or no folder.
    """
    out = Path(out)
    if (out / "record.json").exists() or (out / "study.json").exists() or (out.exists() and not out.is_dir()):
        raise RunFolderError(f"{out}: is a run, a study or a file; give --out another folder for the comparison")
    runs = read_runs(folders)
    rows, columns = rows_of(runs), _columns(runs)
    data = {
        "runs": {run.name: str(run.folder) for run in runs},
        "shifts": common_shifts(runs),
        "warnings": warnings_of(runs),
        "rows": [vars(row) for row in rows],
    }
    write_text(out / "comparison.html", page(_title(runs), _headline(runs, rows), _sections(runs, rows, out), data))
    heads, cells = [_head(column) for column, _ in columns], _cells(rows, columns)
    plain = [[row.label, *(None if v is None else 100 * v for v in _values(row))] for row in rows]
    texts = [[cell.text for cell in line] for line in cells]
    marked = [[f"**{cell.text}**" if cell.best else cell.text for cell in line] for line in cells]
    write_text(out / "table.md", markdown(heads, marked))
    write_text(out / "table.csv", csv_text(heads, plain))
    write_text(out / "table.tex", latex(heads, texts, [[cell.best for cell in line] for line in cells]))
    return data


def _title(runs: Sequence[Compared]) -> str:
    return f"Comparison of {len(runs)} run{'s' if len(runs) > 1 else ''}"


def _head(column: Column) -> str:
    return f"{column.label}, {column.unit}" if column.unit else column.label


def _columns(runs: Sequence[Compared]) -> list[tuple[Column, int]]:
    """Columns with their decimals."""
    splits: list[tuple[str, Better, int]] = [(split, "higher", 1) for split in splits_of(runs)]
    splits += [("mean of shifts", "higher", 1), ("ECE id", "lower", 2), ("ECE shifts", "lower", 2)]
    return [(Column("Model", numeric=False), 0), *((Column(n, "%", better), digits) for n, better, digits in splits)]


def _values(row: Row) -> list[float | None]:
    return [*row.splits.values(), row.shifts, row.ece_id, row.ece_shifts]


def _cells(rows: Sequence[Row], columns: Sequence[tuple[Column, int]]) -> list[list[Cell]]:
    lines: list[list[Cell]] = [[Cell(row.label, row.label)] for row in rows]
    for index, (column, digits) in enumerate(columns[1:]):
        values = [_values(row)[index] for row in rows]
        known = [value for value in values if value is not None]
        best = None if len(known) < 2 else max(known) if column.better == "higher" else min(known)
        for line, value in zip(lines, values, strict=True):
            line.append(Cell(MISSING) if value is None else Cell(number(100 * value, digits), value, value == best))
    return lines


def _headline(runs: Sequence[Compared], rows: Sequence[Row]) -> list[str]:
    """What was compared, the best model on ``id`` and over the shifts, and what may spoil the comparison."""
    shifts, methods = common_shifts(runs), dict.fromkeys(str(run.record.get("method") or MISSING) for run in runs)
    shared = f"; all have the shifts {', '.join(shifts)}" if shifts else ""
    lines = [f"{len(runs)} run{'s' if len(runs) > 1 else ''} of {', '.join(methods)}{shared}."]
    known = [(row.splits.get("id"), row.label, "on id") for row in rows]
    means = [(row.shifts, row.label, "over the shifts") for row in rows]
    for found in (known, means):
        best = max(((v, label, where) for v, label, where in found if v is not None), default=None)
        if best:
            lines.append(f"Best {best[2]}: {best[1]}, {number(100 * best[0])}\N{NO-BREAK SPACE}%.")
    return [*lines, *(f"Warning: {text}" for text in warnings_of(runs))]


def _sections(runs: Sequence[Compared], rows: Sequence[Row], out: Path) -> list[Section]:
    columns = _columns(runs)
    sections: list[Section] = [Table("Results", [column for column, _ in columns], _cells(rows, columns), _UNPAIRED)]
    shown = [*trade_off(rows, legend_names(runs)), *_guard_fronts(runs)]
    if shown:
        sections.append(Figures("Task against shifts", shown))
    warnings = warnings_of(runs)
    alike = "All runs were evaluated on the same images (equal sha256 of every split), with the same classes."
    checked = [Text("Same images?", warnings or [alike])] if len(runs) > 1 else []
    sections += [*_curves(runs), *checked, *_settings(runs)]
    return [*sections, _made(runs, out)]


def _guard_fronts(runs: Sequence[Compared]) -> list[Figure]:
    """The front that each guarded run was chosen from; on other images than the results, so a figure of its own."""
    points, names = list[dict[str, Any]](), legend_names(runs)
    for run in runs:
        points += front_points(run.record.get("guard") or {}, f"{names[run.name]}: ")
    if not points:
        return []
    svg = figures.front(points, "x", "y", x_label="held-out, %", y_label="mean of guard sets, %")
    caption = "The front of each guarded run on the images that it chose on; a star is the proposed point."
    return [drawn("Guard fronts", svg, "guard-", caption)]


def _curves(runs: Sequence[Compared]) -> list[Section]:
    lines, names = [], legend_names(runs)
    for run in runs:
        points = [
            (line["step"], line["loss"]) for line in run.log if finite(line.get("step")) and finite(line.get("loss"))
        ]
        if len(points) > 1:
            lines.append({"label": names[run.name], "x": [x for x, _ in points], "y": [y for _, y in points]})
    if not lines:
        return []
    caption = "The loss as logged; losses of different methods have different terms, so only shapes can be compared."
    return [drawn("Learning curves", figures.curves(lines, y_label="loss"), "loss-", caption)]


def _settings(runs: Sequence[Compared]) -> list[Section]:
    """What was set otherwise, a line a setting."""
    found = differences(runs)
    if not found:
        return []
    columns = [Column("Setting", numeric=False), *(Column(run.name, numeric=False) for run in runs)]
    rows = [[Cell(key, key), *(Cell(_said(value), _said(value)) for value in values)] for key, values in found.items()]
    return [Table("Settings that differ", columns, rows, "All other settings are equal; the folder is not compared.")]


def _said(value: object) -> str:
    return MISSING if value is None else str(value)


def _made(runs: Sequence[Compared], out: Path) -> Repeat:
    """How each run was made."""
    facts = {}
    for run in runs:
        record, train = run.record, (run.record.get("data") or {}).get("train") or {}
        environment = record.get("environment") or {}
        origin = {
            "folder": run.folder, "method": record.get("method"), "seed": record.get("seed"),
            "steps": record.get("steps"), "time": duration(record.get("seconds")), "training samples": train.get("n"),
            "sha256 of them": str(train.get("sha256") or "")[:16] or None, "tracerft": record.get("tracerft"),
            "torch": environment.get("torch"),
        }  # fmt: skip
        facts[run.name] = {key: value for key, value in origin.items() if value is not None}
    named = " ".join(shlex.quote(str(run.folder)) for run in runs)
    return Repeat("How each was made", f"tracerft compare {named} --out {shlex.quote(str(out))}", facts)
