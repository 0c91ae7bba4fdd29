"""Five kinds of figure from plain rows, each returned as one small SVG text.

Knows no study: the caller says which keys to draw. Equal input gives equal text. matplotlib loads on first use.
"""

import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tracerft.errors import ArgumentError
from tracerft.reports.marks import (
    bar_groups,
    curve,
    diagonal,
    front_line,
    legend_below,
    legend_columns,
    plain_log,
    reference_lines,
)
from tracerft.reports.svg import INK, polish
from tracerft.reports.tables import spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 6.6
_RC: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tracerft",
    "text.parse_math": False,  # a class may be called $5
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.16,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
}


def grouped_bars(
    rows: Sequence[Mapping[str, Any]], series: Sequence[tuple[str, str]], *, label: str = "method", x_label: str = ""
) -> str:
    """Horizontal bars, one group a row and one bar a series, with standard deviations as whiskers.

    Args:
        rows: each with ``label`` and a cell for every key: a number, ``{"mean", "std", "values"}`` or ``None``.
        series: ``(key, name in the legend)``.
        label: key of the row's name.
        x_label: name and unit of the axis.

    Returns:
        SVG text.

    Raises:
        ArgumentError: if there is no row or no series.
    """
    _some("rows", rows)
    _some("series", series)
    height = 0.75 + (0.3 if len(series) > 1 else 0.0) + len(rows) * (0.16 + 0.17 * len(series))
    return _draw(lambda axes: bar_groups(axes, rows, series, label, x_label), height)


def bars(
    rows: Sequence[Mapping[str, Any]], key: str, *, label: str = "method", x_label: str = "", color: int = 3
) -> str:
    """One horizontal bar a row with its standard deviation; negative values grow to the left.

    Args:
        rows: as in `grouped_bars`.
        key: the cell to draw.
        label: key of the row's name.
        x_label: name and unit of the axis.
        color: place in `marks.PALETTE`.

    Returns:
        SVG text.

    Raises:
        ArgumentError: if there is no row.
    """
    _some("rows", rows)
    height = 0.75 + 0.33 * len(rows)
    return _draw(lambda axes: bar_groups(axes, rows, [(key, "")], label, x_label, color), height)


def front(
    rows: Sequence[Mapping[str, Any]],
    x: str,
    y: str,
    *,
    x_label: str = "",
    y_label: str = "",
    reference: Mapping[str, Any] | None = None,
    limits: tuple[tuple[float, float], tuple[float, float]] | None = None,
) -> str:
    """Trade-off of two measures: a line with markers a method over its strengths, a star at the selected one.

    Args:
        rows: each with ``method``, the two cells, and perhaps ``strength`` (a number) and ``selected``.
        x: key of the horizontal measure.
        y: key of the vertical measure.
        x_label: name and unit of the horizontal axis.
        y_label: name and unit of the vertical axis.
        reference: a row drawn as two dotted lines, such as the pretrained model; the horizontal axis is not
            stretched to reach it.
        limits: ``((x low, x high), (y low, y high))`` to look at a crowded corner; say so in the caption.

    Returns:
        SVG text.

    Raises:
        ArgumentError: if there is no row.
    """
    _some("rows", rows)
    lines = _by_method(rows)

    def paint(axes: "Axes") -> None:
        for index, (name, members) in enumerate(lines.items()):
            front_line(axes, index, name, [(spread(r.get(x)), spread(r.get(y)), r.get("selected")) for r in members])
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.grid(True)
        axes.margins(0.06)
        if reference is not None:
            reference_lines(axes, spread(reference.get(x)), spread(reference.get(y)), str(reference.get("method", "")))
        if limits is not None:
            axes.set(xlim=limits[0], ylim=limits[1])
        legend_below(axes)

    return _draw(paint, 3.5 + 0.2 * math.ceil(len(lines) / legend_columns(list(lines))))


def curves(lines: Sequence[Mapping[str, Any]], *, x_label: str = "step", y_label: str = "", log_y: bool = False) -> str:
    """Lines over training, with a band where ``low`` and ``high`` are given.

    Args:
        lines: each ``{"label", "x": [...], "y": [...]}`` and perhaps ``low`` and ``high`` as long as ``y``;
            points that are not finite (or, with ``log_y``, not positive) are left out.
        x_label: name and unit of the horizontal axis.
        y_label: name and unit of the vertical axis.
        log_y: whether the vertical axis is logarithmic.

    Returns:
        SVG text.

    Raises:
        ArgumentError: if there is no line, or x and y differ in length.
    """
    _some("lines", lines)

    def paint(axes: "Axes") -> None:
        for index, line in enumerate(lines):
            curve(axes, index, line, log_y)
        if log_y:
            plain_log(axes)
        axes.set(xlabel=x_label, ylabel=y_label)
        if all(float(x).is_integer() for line in lines for x in line["x"]):
            axes.locator_params(axis="x", integer=True)  # no half steps and half layers
        axes.grid(True)
        axes.margins(x=0.01)
        legend_below(axes)

    columns = legend_columns([str(line.get("label", "")) for line in lines])
    return _draw(paint, 3.0 + 0.2 * math.ceil(len(lines) / columns))


def reliability(lines: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy against confidence, one line with markers a model, beside the diagonal of perfect calibration.

    Args:
        lines: each ``{"label", "x": [...], "y": [...]}`` in percent, one point a bin.

    Returns:
        SVG text.

    Raises:
        ArgumentError: if there is no line.
    """
    _some("lines", lines)

    def paint(axes: "Axes") -> None:
        diagonal(axes)
        for index, line in enumerate(lines):
            points = [((x, None, 1), (y, None, 1), False) for x, y in zip(line["x"], line["y"], strict=True)]
            front_line(axes, index, str(line["label"]), points)
        axes.set(xlabel="confidence, %", ylabel="accuracy, %", xlim=(-2, 102), ylim=(-2, 102))
        axes.grid(True)
        legend_below(axes)

    return _draw(paint, 3.5 + 0.2 * math.ceil(len(lines) / legend_columns([str(line["label"]) for line in lines])))


def _by_method(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Rows of each method by rising strength; methods in order of appearance."""
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (row.get("strength") is None, row.get("strength") or 0.0)):
        lines.setdefault(str(row["method"]), []).append(row)
    return {name: lines[name] for name in dict.fromkeys(str(row["method"]) for row in rows)}


def _draw(paint: Callable[["Axes"], None], height: float) -> str:
    """Run ``paint`` on one pair of axes and return the SVG; no global state of matplotlib is left changed."""
    import matplotlib
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with matplotlib.rc_context(_RC), warnings.catch_warnings():
        # The reader's browser draws the text, so a glyph that matplotlib's own font lacks is no problem.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        figure.patch.set_alpha(0.0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0.0)
        paint(axes)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return polish(buffer.getvalue())


def _some(argument: str, values: Sequence[object]) -> None:
    if not len(values):
        raise ArgumentError(f"`{argument}` must hold at least one entry; got none; leave the figure out instead")
