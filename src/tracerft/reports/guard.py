"""What the report of a run says of its guard: the proposed point, and the whole front as a table."""

from collections.abc import Mapping
from typing import Any

from tracerft.reports.blocks import Cell, Column, Section, Table, Text
from tracerft.reports.tables import number


def guard_sections(guard: Mapping[str, Any]) -> list[Section]:
    """Sections of the record's entry ``guard``."""
    chosen, names, held = guard["chosen"], list(guard["sets"]), guard["held_out"]
    low, high = (number(100 * edge) for edge in chosen["gain_ci95"])
    lines = [
        guard["note"],
        f"Accuracy on held-out images ({held['split']}, {held['n']}): {number(100 * chosen['accuracy'])} %, a gain of "
        f"{number(100 * chosen['gain'])} points over the pretrained model (95 % paired interval {low} to {high}).",
        *(f"{name}: {_drop(chosen, name)}; {of['value']}, n = {of['n']}." for name, of in guard["sets"].items()),
    ]
    if guard["also_reported"]:
        lines.append(
            f"The choice saw images of {', '.join(guard['also_reported'])}: results of guarded there are not those of "
            "unseen images."
        )
    columns = [Column("Model", numeric=False), Column("Share"), Column("Held-out", "%", "higher")]
    columns += [*(Column(name, "%", "higher") for name in names), Column("Keeps all", numeric=False)]
    rows = [
        [
            Cell(row["model"], row["model"]),
            Cell(number(row["alpha"]), row["alpha"]),
            *(_percent(value) for value in (row["accuracy"], *(row["guards"][name] for name in names))),
            Cell("yes" if row["keeps"] else "no", "yes" if row["keeps"] else "no"),
        ]
        for row in guard["front"]
    ]
    note = "Each point lies on the line from the pretrained weights; share is how much of the model's weights it has."
    return [Text("Guard", lines), Table("Front", columns, rows, note, collapsed=True)]


def _drop(chosen: Mapping[str, Any], name: str) -> str:
    interval = chosen["drops_ci95"][name]
    between = "" if interval is None else f" (95 % paired interval {number(interval[0])} to {number(interval[1])})"
    return f"a drop of {number(chosen['drops'][name])} points{between}"


def _percent(value: float) -> Cell:
    return Cell(number(100 * value), value)
