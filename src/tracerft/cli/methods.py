"""`tracerft methods`: the METHODS table."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tracerft.cli.options import Parser
from tracerft.errors import ArgumentError

if TYPE_CHECKING:
    from tracerft.methods import MethodInfo

COST = "Cost in forward passes of the image tower; tau is a text forward in that unit (0.17 for ViT-B/16)."


def run(arguments: Sequence[str]) -> None:
    """Print the table, JSON with ``--json``, or docs/methods.md with ``--markdown``."""
    parser = Parser("methods", "List the finetuning methods with their paper and cost.")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--markdown", action="store_true", help="print docs/methods.md, with the options of each")
    options = parser.read(arguments)
    if options.json and options.markdown:
        raise ArgumentError("--json and --markdown exclude each other; choose one")
    from tracerft.methods import list_methods
    from tracerft.reports.terminal import print_table

    if options.markdown:
        print(markdown(), end="")
        return
    rows = list_methods()
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    headers = ["method", "what it does", "cost per pair", "paper"]
    print_table(headers, [[r["name"], r["summary"], r["cost"], r["paper"]] for r in rows])
    print(COST)


def markdown() -> str:
    """The page docs/methods.md: a table of all methods, then what each reads."""
    from tracerft.methods import METHODS

    lines = [
        "# Methods",
        "",
        "Written by `tracerft methods --markdown > docs/methods.md` from the METHODS table; a test compares the two.",
        "Choose one with `tracerft finetune --method NAME`; an option that a method does not read is refused. Those",
        "without a run of their own are made by the command that stands with them.",
        "[Compared](results/compare/README.md), and [how they differ from their papers](deviations.md#baselines).",
        "A method of your own: [guide](new-method.md).",
        "",
        COST,
    ]
    for family in dict.fromkeys(m.family for m in METHODS.values()):
        members = [m for m in METHODS.values() if m.family == family]
        lines += [
            "",
            f"## {family.capitalize()}",
            "",
            "| method | what it does | cost per pair | extra data |",
            "| --- | --- | --- | --- |",
            *(f"| [`{m.name}`](#{m.name}) | {m.summary} | {m.cost} | {m.extra_data} |" for m in members),
        ]
    for m in METHODS.values():
        lines += ["", f"### {m.name}", "", m.summary, "", f"- Paper ({m.year}): {m.paper}", f"- {_made(m)}"]
    return "\n".join(lines) + "\n"


def _made(info: "MethodInfo") -> str:
    """The options that a method reads, or the command that makes it."""
    if info.how:
        return f"Made by: `{info.how}`"
    read = ", ".join(f"`--{option}`" for option in info.uses)
    return f"Reads: {read}" if read else "Reads no option of its own"
