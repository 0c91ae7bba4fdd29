"""`tracerft compare`: finished runs on one page, from their files alone."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

from tracerft.cli.options import Parser


def run(arguments: Sequence[str]) -> None:
    """Write the page and the tables, and print the table or JSON."""
    text = "Put finished runs on one page, comparison.html, with table.md, table.csv and table.tex; evaluates nothing."
    parser = Parser("compare", text, "tracerft compare RUN [RUN ...] --out FOLDER [--json]")
    parser.add_argument("runs", type=str, nargs="+", help="folders of finished runs")
    parser.add_argument("--out", type=str, required=True, help="folder for the page and the tables")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.read(arguments)
    from tracerft.reports.comparison import write_comparison
    from tracerft.reports.tables import number
    from tracerft.reports.terminal import print_table

    out = Path(options.out)
    data = write_comparison([Path(folder) for folder in options.runs], out)
    for warning in data["warnings"]:
        warnings.warn(warning, UserWarning, stacklevel=2)
    if options.json:
        print(json.dumps(data, indent=2, ensure_ascii=False))
        return
    rows = [
        [
            f"{row['run']}: {row['model']}" if row["run"] else row["model"],
            *(None if v is None else number(100 * v) for v in (row["splits"].get("id"), row["shifts"], row["ece_id"])),
        ]
        for row in data["rows"]
    ]
    print_table(["model", "id %", "mean of shifts %", "ECE id %"], rows)
    print(out / "comparison.html")
