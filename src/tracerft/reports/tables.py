"""Numbers to text and rows to tables: Markdown, CSV and LaTeX for files, rich for the terminal.

Imports `errors` only; rich is loaded when a terminal table is asked for.
"""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tracerft.errors import ShapeError

if TYPE_CHECKING:
    from rich.table import Table

SHORT_CELL = 12  # characters that a cell has room for before it is broken
MISSING = "–"


def mean_std(values: Sequence[float], *, digits: int = 1, scale: float = 1.0, show_n: bool = True) -> str:
    """Mean ± sample standard deviation (n - 1) with n, such as ``94.4 ± 0.6 (n=3)``.

    Args:
        values: one number a seed; none gives a dash, a single one has no deviation to print.
        digits: decimals, at least 0.
        scale: factor before printing; 100 turns fractions into percent.
        show_n: whether to add the number of values; leave it out only where the table says n elsewhere.

    Returns:
        The text.

    Example:
        >>> mean_std([94.0, 95.0, 94.3])
        '94.4 ± 0.5 (n=3)'
        >>> mean_std([94.0])
        '94.0 (n=1)'
    """
    scaled = [value * scale for value in values]
    if not scaled:
        return MISSING
    text = number(statistics.fmean(scaled), digits)
    if len(scaled) > 1:
        text += f" ± {number(statistics.stdev(scaled), digits)}"
    return f"{text} (n={len(scaled)})" if show_n else text


def spread(cell: object) -> tuple[float, float | None, int] | None:
    """Mean, sample standard deviation and n of a table cell.

    Args:
        cell: ``{"mean", "std", "values"}``, a plain number, or ``None``; a missing ``std`` is taken from ``values``.

    Returns:
        ``(mean, std, n)`` with ``std`` ``None`` below two values, or ``None`` where there is no finite number.
    """
    if isinstance(cell, bool) or not isinstance(cell, (int, float, Mapping)):
        return None
    if not isinstance(cell, Mapping):
        return (float(cell), None, 1) if math.isfinite(cell) else None
    values = [float(v) for v in cell.get("values") or () if v is not None]
    mean = cell.get("mean", statistics.fmean(values) if values else None)
    if mean is None or not math.isfinite(mean):
        return None
    std = cell.get("std")
    if std is None and len(values) > 1:
        std = statistics.stdev(values)
    return float(mean), None if std is None else float(std), max(1, len(values))


def number(value: float, digits: int = 1) -> str:
    """Fixed decimals with a true minus sign, and no minus before a zero."""
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def markdown(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A GitHub table; cells cannot break out of it or bring HTML.

    Args:
        headers: one text a column.
        rows: cells, printed with ``str``; ``None`` becomes a dash.

    Returns:
        Lines joined by newlines, with one at the end.

    Raises:
        ShapeError: if a row has another number of cells than ``headers``.
    """
    _rectangular(headers, rows)
    lines = [list(map(_markdown_cell, headers)), ["---"] * len(headers)]
    lines += [list(map(_markdown_cell, row)) for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def rich_table(headers: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None) -> "Table":
    """A terminal table; cells are plain text, so ``[red]`` in a class name is printed, not obeyed.

    Args:
        headers: one text a column; the first is set left, the others right.
        rows: cells, printed with ``str``; ``None`` becomes a dash.
        title: a line above the table.

    Returns:
        A ``rich.table.Table`` for ``Console.print``.

    Raises:
        ShapeError: if a row has another number of cells than ``headers``.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    _rectangular(headers, rows)
    table = Table(title=None if title is None else Text(title), box=SIMPLE_HEAD, title_justify="left")
    for index, header in enumerate(headers):
        words = [*(_plain(row[index]) for row in rows), *header.split()]
        narrow = min(max(map(len, words)), SHORT_CELL)
        table.add_column(Text(header), justify="right" if index else "left", overflow="fold", min_width=narrow)
    for row in rows:
        table.add_row(*(Text(_plain(cell)) for cell in row))
    return table


def _rectangular(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    for index, row in enumerate(rows):
        if len(row) != len(headers):
            raise ShapeError(
                f"`rows[{index}]` must have {len(headers)} cells like `headers`; got {len(row)}; fill gaps"
            )


def _plain(cell: object) -> str:
    """The cell without control characters, which a terminal would obey."""
    text = MISSING if cell is None else str(cell)
    return "".join(" " if ord(c) < 32 or 127 <= ord(c) < 160 else c for c in text)


def _markdown_cell(cell: object) -> str:
    text = " ".join(_plain(cell).split()).replace("\\", "\\\\").replace("|", "\\|")
    return text.replace("&", "&amp;").replace("<", "&lt;")


def csv_text(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Comma-separated values; a text that a spreadsheet would run as a formula gets a quote in front.

    Args:
        headers: one text a column.
        rows: cells; numbers with six significant digits, ``None`` is left empty.

    Raises:
        ShapeError: if a row has another number of cells than ``headers``.
    """
    _rectangular(headers, rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for line in (headers, *rows):
        writer.writerow([_csv_cell(cell) for cell in line])
    return text.getvalue()


def _csv_cell(cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, (int, float)):
        return f"{cell:.6g}"
    text = _plain(cell)
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) else text


_LATEX = {
    **{c: f"\\{c}" for c in "{}$&#_%"}, "\\": r"\textbackslash{}", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': r"\textquotedbl{}", "−": "$-$", "±": r"$\pm$", MISSING: "--", "[": "{[}", "]": "{]}",
}  # fmt: skip


def latex(headers: Sequence[str], rows: Sequence[Sequence[object]], bold: Sequence[Sequence[bool]] = ()) -> str:
    r"""A ``tabular`` with the rules of booktabs; cells are text, so no command in a name is obeyed.

    Args:
        headers: one text a column; the first is set left, the others right.
        rows: cells, printed with ``str``; ``None`` becomes a dash.
        bold: which cells to set in ``\textbf``, of the shape of ``rows``; empty for none.

    Returns:
        Lines joined by newlines, to ``\input`` where ``\usepackage{booktabs}`` is loaded.

    Raises:
        ShapeError: if a row has another number of cells than ``headers``.
    """
    _rectangular(headers, rows)
    lines = []
    for index, row in enumerate(rows):
        marks = bold[index] if bold else [False] * len(row)
        cells = [rf"\textbf{{{_latex(c)}}}" if mark else _latex(c) for c, mark in zip(row, marks, strict=True)]
        lines.append(" & ".join(cells) + r" \\")
    head = " & ".join(map(_latex, headers)) + r" \\"
    start = rf"\begin{{tabular}}{{l{'r' * (len(headers) - 1)}}}"
    return "\n".join([start, r"\toprule", head, r"\midrule", *lines, r"\bottomrule", r"\end{tabular}", ""])


def _latex(cell: object) -> str:
    return "".join(_LATEX.get(c, c) for c in " ".join(_plain(cell).split()))
