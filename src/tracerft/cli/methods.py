"""`tracerft methods`: the METHODS table."""

import json
from collections.abc import Sequence

from tracerft.cli.options import Parser


def run(arguments: Sequence[str]) -> None:
    """Print the table, or JSON with ``--json``."""
    parser = Parser("methods", "List the finetuning methods with their paper and cost.")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.read(arguments)
    from tracerft.methods import list_methods
    from tracerft.reports.terminal import print_table

    rows = list_methods()
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    headers = ["method", "what it does", "cost per pair", "paper"]
    print_table(headers, [[r["name"], r["summary"], r["cost"], r["paper"]] for r in rows])
    print("Cost in forward passes of the image tower; tau is a text forward in that unit (0.17 for ViT-B/16).")
