"""What the report of a run says of its guard: the proposed point, the front, and what to take at an exchange rate."""

from collections.abc import Mapping
from math import inf
from statistics import fmean
from typing import Any

from tracerft.reports import figures
from tracerft.reports.blocks import Cell, Column, Section, Table, Text
from tracerft.reports.tables import number
from tracerft.reports.trade_off import drawn

PRETRAINED = "pretrained"


def guard_sections(guard: Mapping[str, Any]) -> list[Section]:
    """Sections of the record's entry ``guard``."""
    chosen, held = guard["chosen"], guard["held_out"]
    low, high = (number(100 * edge) for edge in chosen["gain_ci95"])
    lines = [
        guard["note"],
        *([f"The rule: {guard['rule']}."] if "rule" in guard else []),  # 0.1.0 had one rule and did not name it
        f"Accuracy on held-out images ({held['split']}, {held['n']}): {number(100 * chosen['accuracy'])} %, a gain of "
        f"{number(100 * chosen['gain'])} points over the pretrained model (95 % paired interval {low} to {high}).",
        *(f"{name}: {_drop(chosen, name)}; {of['value']}, n = {of['n']}." for name, of in guard["sets"].items()),
    ]
    if guard["also_reported"]:
        lines.append(
            f"The choice saw images of {', '.join(guard['also_reported'])}: results of guarded there are not those of "
            "unseen images."
        )
    exchange = [_exchange(guard)] if guard.get("exchange") else []
    return [Text("Guard", lines), *_drawn(guard), *exchange, _front(guard)]


def front_points(guard: Mapping[str, Any], prefix: str = "") -> list[dict[str, Any]]:
    """Points of the front for `figures.front`, a line from the start to each end; ``prefix`` goes before its name."""
    chosen, front, points = guard.get("chosen") or {}, guard.get("front") or [], []
    start = [row for row in front if row["model"] == PRETRAINED][:1]
    for model in dict.fromkeys(row["model"] for row in front if row["model"] != PRETRAINED):
        for row in start + [row for row in front if row["model"] == model]:
            picked = (row["model"], row["alpha"]) == (chosen.get("model"), chosen.get("alpha"))
            x, y = 100 * row["accuracy"], 100 * fmean(row["guards"].values())
            point = {"strength": row["alpha"], "x": x, "y": y, "selected": picked}
            points.append({"method": f"{prefix}{model}", **point})
    return points


def _drawn(guard: Mapping[str, Any]) -> list[Section]:
    points = front_points(guard)
    if not points:
        return []
    svg = figures.front(points, "x", "y", x_label="held-out, %", y_label="mean of guard sets, %")
    caption = (
        "Lines run from the pretrained model over interpolated weights to each model of the run; a star is the "
        "proposed point. Measured on the images that it was chosen on."
    )
    return [drawn("Held-out against guard sets", svg, "guard-", caption)]


def _exchange(guard: Mapping[str, Any]) -> Table:
    """Which point to take between two exchange rates."""
    rows, of = [], {(row["model"], row["alpha"]): row for row in guard["front"]}
    rate = guard.get("rate")
    bounded = guard.get("max_drop") is not None
    for piece in guard["exchange"]:
        row = of[piece["model"], piece["alpha"]]
        end = inf if piece["to"] is None else piece["to"]
        asked = rate is not None and piece["from"] <= rate <= end
        cells = [
            Cell(_rate(piece["from"]), piece["from"], best=asked),
            Cell("any higher" if end == inf else _rate(end), None if end == inf else end, best=asked),
            *_place(row), _percent(row["accuracy"]), _percent(row["mean"]),
        ]  # fmt: skip
        rows.append([*cells, _keeps(row)] if bounded else cells)
    columns = [
        Column("Rate from", better="higher"), Column("to"), Column("Model", numeric=False), Column("Share"),
        Column("Held-out", "%", "higher"), Column("Mean of guard sets", "%", "higher"),
    ]  # fmt: skip
    note = (
        "An exchange rate is how many points held-out one point of the mean of the guard sets is worth. Between two "
        "rates the point named is worth most; of equally accurate ones it is the one with the higher mean. The rates "
        "are those of the images measured and have their chance. `--guard.rate RATE` proposes by rate; `tracerft merge "
        "wise RUN --alpha SHARE --out FOLDER` makes a point of the student's line."
    )
    if bounded:
        columns.append(Column("Keeps all", numeric=False))
        note += f" Over the whole front: points that do not keep to guard.max_drop {guard['max_drop']:g} say so."
    return Table("What to take at an exchange rate", columns, rows, note)


def _front(guard: Mapping[str, Any]) -> Table:
    names, first = list(guard["sets"]), guard["front"][0]
    extra = {key: label for key, label in (("mean", "Mean"), ("value", "Value")) if key in first}
    columns = [Column("Model", numeric=False), Column("Share"), Column("Held-out", "%", "higher")]
    columns += [Column(label, "%", "higher") for label in (*names, *extra.values())]
    rows = []
    for row in guard["front"]:
        values = [row["accuracy"], *(row["guards"][name] for name in names), *(row[key] for key in extra)]
        rows.append([*_place(row), *map(_percent, values), *([_keeps(row)] if "keeps" in first else [])])
    if "keeps" in first:
        columns.append(Column("Keeps all", numeric=False))
    note = "Each point lies on the line from the pretrained weights; share is how much of the model's weights it has."
    if "value" in extra:
        note += f" Value is held-out + {guard['rate']:g} x mean of the guard sets."
    return Table("Front", columns, rows, note, collapsed=True)


def _drop(chosen: Mapping[str, Any], name: str) -> str:
    interval = chosen["drops_ci95"][name]
    between = "" if interval is None else f" (95 % paired interval {number(interval[0])} to {number(interval[1])})"
    return f"a drop of {number(chosen['drops'][name])} points{between}"


def _place(row: Mapping[str, Any]) -> list[Cell]:
    return [Cell(row["model"], row["model"]), Cell(number(row["alpha"]), row["alpha"])]


def _keeps(row: Mapping[str, Any]) -> Cell:
    return Cell("yes" if row["keeps"] else "no", "yes" if row["keeps"] else "no")


def _percent(value: float) -> Cell:
    return Cell(number(100 * value), value)


def _rate(value: float) -> str:
    return f"{value:.3g}"
