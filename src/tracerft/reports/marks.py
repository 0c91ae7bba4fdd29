"""How one bar group, line or legend is drawn, and in which colours and shapes.

Called inside `figures._draw` only, where matplotlib's settings are ours.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tracerft.errors import ArgumentError
from tracerft.reports.svg import INK
from tracerft.reports.tables import number, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# After Okabe and Ito, shifted until each keeps contrast 3 on white and on near-black; shapes repeat the message.
PALETTE = ("#2f7fc1", "#d17a00", "#0f9470", "#d9501e", "#b5629a", "#8172d6", "#8a8a8a")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
MAX_POINTS = 160  # a line of 160 points cannot be told from a longer one at this size, and keeps the file small
MAX_LABEL = 34
Cell = tuple[float, float | None, int] | None


def bar_groups(
    axes: "Axes",
    rows: Sequence[Mapping[str, Any]],
    series: Sequence[tuple[str, str]],
    label: str,
    x_label: str,
    color: int = 0,
) -> None:
    """Bars, whiskers and figures of `figures.grouped_bars`; the first row is on top."""
    thickness = 0.78 / len(series)
    for place, (key, name) in enumerate(series):
        cells = [(index, cell) for index, row in enumerate(rows) if (cell := spread(row.get(key)))]
        ys = [index + (place - (len(series) - 1) / 2) * thickness for index, _ in cells]
        tint = PALETTE[(color + place) % len(PALETTE)]
        axes.barh(ys, [c[0] for _, c in cells], height=thickness * 0.9, color=tint, label=short(name))
        for y, (_, (mean, std, _)) in zip(ys, cells, strict=True):
            deviation = std or 0.0
            if deviation:
                axes.errorbar(mean, y, xerr=deviation, color=INK, elinewidth=0.9, capsize=1.8, capthick=0.9)
            side = -1 if mean < 0 else 1
            axes.annotate(
                number(mean), (mean + side * deviation, y), (side * 4, 0), textcoords="offset points",
                va="center", ha="left" if side > 0 else "right", fontsize=8,
            )  # fmt: skip
    axes.set_yticks(range(len(rows)), [short(row.get(label, "")) for row in rows])
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_xlabel(x_label)
    axes.grid(True, axis="x")
    axes.axvline(0.0, color=INK, linewidth=0.6)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.09)
    if len(series) > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(series), borderpad=0.1, borderaxespad=0.2)


def reference_lines(axes: "Axes", x: Cell, y: Cell, name: str) -> None:
    """Two dotted lines; a far reference must not squeeze the points into a corner, so x keeps its range."""
    style: dict[str, Any] = {"color": INK, "linewidth": 0.9, "linestyle": (0, (2, 2)), "alpha": 0.7}
    low, high = axes.get_xlim()
    if x and low <= x[0] <= high:
        axes.axvline(x[0], **style)
    if y:
        axes.axhline(y[0], label=short(name), **style)
    axes.set_xlim(low, high)


def diagonal(axes: "Axes") -> None:
    """Where accuracy equals confidence, in percent."""
    axes.plot([0, 100], [0, 100], color=INK, linewidth=0.9, linestyle=(0, (2, 2)), alpha=0.7)


def plain_log(axes: "Axes") -> None:
    """A logarithmic vertical axis with ticks such as 0.001, since formulas are switched off."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def front_line(axes: "Axes", index: int, name: str, points: Sequence[tuple[Cell, Cell, Any]]) -> None:
    """One method over its strengths, with its stars."""
    drawn = [(x[0], y[0], star) for x, y, star in points if x and y]
    tint, dash = PALETTE[index % len(PALETTE)], DASHES[(index // len(PALETTE)) % len(DASHES)]
    axes.plot(
        [p[0] for p in drawn], [p[1] for p in drawn], color=tint, linestyle=dash, linewidth=1.2,
        marker=MARKERS[index % len(MARKERS)], markersize=4.5, label=short(name),
    )  # fmt: skip
    stars = [p for p in drawn if p[2]]
    axes.plot(
        [p[0] for p in stars], [p[1] for p in stars], linestyle="", marker="*", markersize=13, color=tint,
        markeredgecolor=INK, markeredgewidth=0.7, zorder=4,
    )  # fmt: skip


def curve(axes: "Axes", index: int, line: Mapping[str, Any], log_y: bool) -> None:
    """One line of `figures.curves`, with its band."""
    xs, ys = line["x"], line["y"]
    if len(xs) != len(ys):
        raise ArgumentError(f"`lines[{index}]` must have x and y of one length; got {len(xs)} and {len(ys)}; fill gaps")
    usable = [i for i, y in enumerate(ys) if y is not None and math.isfinite(y) and (y > 0 or not log_y)]
    keep = _thin(usable)
    tint, dash = PALETTE[index % len(PALETTE)], DASHES[(index // len(PALETTE) + index) % len(DASHES)]
    name = short(line["label"])
    axes.plot([xs[i] for i in keep], [ys[i] for i in keep], color=tint, linestyle=dash, linewidth=1.5, label=name)
    low, high = line.get("low"), line.get("high")
    if low is not None and high is not None:
        axes.fill_between(
            [xs[i] for i in keep], [low[i] for i in keep], [high[i] for i in keep], color=tint, alpha=0.15, linewidth=0
        )


def _thin(indices: list[int]) -> list[int]:
    """At most `MAX_POINTS` of them, evenly spread, with the first and the last."""
    if len(indices) <= MAX_POINTS:
        return indices
    last = len(indices) - 1
    return [indices[round(i * last / (MAX_POINTS - 1))] for i in range(MAX_POINTS)]


def legend_columns(labels: Sequence[str]) -> int:
    """As many columns as the longest label leaves room for, 1 to 3."""
    longest = max((len(label) for label in labels), default=0)
    return 3 if longest <= 18 else 2 if longest <= 34 else 1


def legend_below(axes: "Axes") -> None:
    """Under the axes, where it cannot cover a point."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = legend_columns(labels)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=columns, borderaxespad=0.2, handlelength=2.6)


def short(value: object) -> str:
    """A label of bearable length without characters that XML forbids."""
    text = "".join(
        " " if ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 or ord(c) in (0xFFFE, 0xFFFF) else c for c in str(value)
    )
    return text if len(text) <= MAX_LABEL else text[: MAX_LABEL - 1] + "…"
