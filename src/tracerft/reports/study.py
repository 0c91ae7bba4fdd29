"""A study's folder to its report.html: study.json and figures/*.svg in, one page out.

Numbers in study.json are printed as they stand, in the unit of their column. Run folders: see `run`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tracerft.errors import DataError
from tracerft.reports.blocks import VERDICTS, Cell, Claims, Column, Figure, Figures, Repeat, Section, Table
from tracerft.reports.html import page
from tracerft.reports.record import read_json, write_text
from tracerft.reports.run import duration, write_run_report
from tracerft.reports.svg import inline
from tracerft.reports.tables import MISSING, markdown, number, spread

__all__ = ["write_run_report", "write_study_report"]

SHORT = 5  # columns that a README or terminal has room for; the page has all
_MEANS = "Mean ± sample standard deviation (n − 1) over n seeds."
_BEST = "Bold is the best of the column; compare it with the deviations before reading a difference into it."


def write_study_report(folder: Path) -> Path:
    """Write ``report.html`` and ``table.md`` from ``study.json`` and ``figures/*.svg``.

    Args:
        folder: the study's folder.

    Returns:
        Path of the page.

    Raises:
        DataError: if study.json is missing, damaged or lacks a field, or a figure is missing or not a plain drawing.
    """
    folder = Path(folder)
    study = read_json(folder / "study.json", "run `tracerft study NAME --out DIR` to the end first, or name its folder")
    for key, kind in (("title", str), ("headline", list), ("columns", list), ("rows", list), ("claims", list)):
        if not isinstance(study.get(key), kind):
            came = "nothing" if key not in study else type(study[key]).__name__
            raise DataError(
                f"{folder / 'study.json'} must hold `{key}` as a {kind.__name__}; got {came}; run the study again"
            )
    path = folder / "report.html"
    write_text(path, page(study["title"], study["headline"], _sections(folder, study), study))
    write_text(folder / "table.md", study_markdown(study))
    return path


def study_markdown(study: Mapping[str, Any]) -> str:
    """The first columns of the main table, and the claims, as GitHub tables for a README."""
    table = _table("", study["columns"][:SHORT], chosen_rows(study), collapsed=False)
    heads = [f"{c.label}, {c.unit}" if c.unit else c.label for c in table.columns]
    rows = [[f"**{cell.text}**" if cell.best else cell.text for cell in row] for row in table.rows]
    claims = [[c["id"], c["paper"], c["ours"], VERDICTS[c["holds"]][1], c["note"]] for c in study["claims"]]
    return markdown(heads, rows) + "\n" + markdown(["Claim", "Paper", "Here", "", "Note"], claims)


def chosen_rows(study: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Selected rows, or all where nothing was selected."""
    return [row for row in study["rows"] if row.get("selected")] or study["rows"]


def _sections(folder: Path, study: Mapping[str, Any]) -> list[Section]:
    """Main table, claims, figures, every strength, how to repeat it."""
    rows, columns = study["rows"], study["columns"]
    chosen = chosen_rows(study)
    title = "Results at the selected strength" if has_strengths(chosen) else "Results"
    sections: list[Section] = [_table(title, columns, chosen, collapsed=False, values=study.get("values", _MEANS))]
    if study["claims"]:
        sections.append(Claims("Claims of the paper", study["claims"]))
    if study.get("figures"):
        sections.append(Figures("Figures", [_figure(folder, i, f) for i, f in enumerate(study["figures"])]))
    if len(rows) > len(chosen):
        sections.append(_table("All strengths", columns, rows, collapsed=True))
    sections.append(_repeat(study))
    return sections


def has_strengths(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether any row was made at a strength, so that a table needs the column."""
    return any(row.get("strength") is not None for row in rows)


def _table(
    title: str,
    columns: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    *,
    collapsed: bool,
    values: str = _MEANS,
) -> Table:
    columns, strengths = [c for c in columns if any(row.get(c["key"]) is not None for row in rows)], has_strengths(rows)
    heads = [Column("Method", numeric=False), *([Column("Strength")] if strengths else [])]
    heads += [Column(c["label"], c.get("unit") or "", c.get("better")) for c in columns]
    heads.append(Column("n", better="higher"))
    best = {c["key"]: _best(rows, c) for c in columns}
    lines = []
    for row in rows:
        name = str(row.get("method", MISSING))
        mark = " ★" if collapsed and row.get("selected") else ""
        line = [Cell(name + mark, name), *([_strength(row.get("strength"))] if strengths else [])]
        line += [_cell(row, column, best[column["key"]]) for column in columns]
        n = row.get("n")
        lines.append([*line, Cell(MISSING if n is None else str(n), n)])
    if all(row.get("n") is None for row in rows):
        return Table(title, heads[:-1], [line[:-1] for line in lines], _BEST, collapsed)
    note = f"{values} {_BEST}"
    return Table(title, heads, lines, note + (" ★ is the selected strength." if collapsed else ""), collapsed)


def _cell(row: Mapping[str, Any], column: Mapping[str, Any], best: float | None) -> Cell:
    """One measure of one row, with its deviation where there is more than one value."""
    found = spread(row.get(column["key"]))
    if found is None:
        return Cell(MISSING)
    mean, std, _ = found
    digits = column_digits(column)
    text = number(mean, digits) + (f" ± {number(std, digits)}" if std is not None else "")
    return Cell(text, mean, best=mean == best)


def _best(rows: Sequence[Mapping[str, Any]], column: Mapping[str, Any]) -> float | None:
    """Best mean of a column that has a better end, when there is something to compare."""
    means = [found[0] for row in rows if (found := spread(row.get(column["key"])))]
    if len(means) < 2 or column.get("better") not in ("higher", "lower"):
        return None
    return max(means) if column["better"] == "higher" else min(means)


def column_digits(column: Mapping[str, Any]) -> int:
    """Decimals: as the column says, else one for percent and points, three for bare numbers."""
    given = column.get("digits")
    return int(given) if given is not None else 1 if column.get("unit") in ("%", "points") else 3


def _strength(value: Any) -> Cell:
    if value is None:
        return Cell(MISSING)
    numeric = isinstance(value, (int, float))
    return Cell(f"{value:g}" if numeric else str(value), value if numeric else None)


def _figure(folder: Path, index: int, entry: Mapping[str, Any]) -> Figure:
    name = Path(str(entry.get("file"))).name  # a name inside figures/, never a way out of it
    drawing = inline(folder / "figures" / name, f"f{index}-")
    title = str(entry.get("title") or name)
    return Figure(title, drawing, str(entry.get("caption") or ""), str(entry.get("alt") or title))


def _repeat(study: Mapping[str, Any]) -> Repeat:
    origin = {"study": study.get("study"), "commit": study.get("commit"), "time": duration(study.get("seconds"))}
    facts = {
        "Settings": study.get("settings") or {},
        "Environment": study.get("environment") or {},
        "Origin": {key: value for key, value in origin.items() if value is not None},
    }
    return Repeat("How to repeat it", str(study.get("command") or ""), facts)
