"""Results as terminal tables."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from tracerft.reports.study import SHORT, column_digits
from tracerft.reports.tables import number, rich_table, spread


def print_table(headers: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None) -> None:
    """Print a table on stdout, as wide as the terminal allows."""
    from rich.console import Console

    Console().print(rich_table(headers, rows, title=title))


def results_table(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Accuracy with its 95 % interval, and ECE, of every model on every split.

    Args:
        results: ``{model: {split: fields of record.json}}``.

    Returns:
        Plain text, one line a model and split.
    """
    from rich.console import Console

    rows = []
    for split in dict.fromkeys(s for of_model in results.values() for s in of_model):
        for model, of_model in results.items():
            if split in of_model:
                cell = of_model[split]
                low, high = cell["top1_ci95"]
                interval = f"[{100 * low:.1f}, {100 * high:.1f}]"
                ece = f"{100 * cell['ece_15']:.1f}"
                rows.append([split, model, str(cell["n"]), f"{100 * cell['top1']:.1f}", interval, ece])
    headers = ["split", "model", "n", "top-1 %", "95 % interval", "ECE %"]
    text = io.StringIO()
    Console(file=text, width=100).print(rich_table(headers, rows))
    return text.getvalue().rstrip()


def print_study(study: Mapping[str, Any]) -> None:
    """Headline, selected rows and claims of a study on stdout."""
    from rich.console import Console

    console = Console(highlight=False)
    for sentence in study["headline"]:
        console.print(sentence, markup=False)
    chosen = [row for row in study["rows"] if row.get("selected")] or study["rows"]
    room = max(1, min(SHORT, (console.width - 28) // 12))  # columns of numbers beside method and strength
    columns = [c for c in study["columns"] if any(row.get(c["key"]) is not None for row in chosen)][:room]
    headers = ["method", "strength", *(f"{c['label']} {c['unit'] or ''}".strip().replace(" ", "\n") for c in columns)]
    rows = [[r["method"], r.get("strength"), *(_cell(r, c) for c in columns)] for r in chosen]
    console.print(rich_table(headers, rows))
    verdicts = {True: "holds", False: "does not hold", None: "open"}
    claims = [[c["paper"], c["ours"], verdicts[c["holds"]]] for c in study["claims"]]
    console.print(rich_table(["claim of the paper", "here", ""], claims))


def _cell(row: Mapping[str, Any], column: Mapping[str, Any]) -> str | None:
    found = spread(row.get(column["key"]))
    if found is None:
        return None
    mean, std, _ = found
    digits = column_digits(column)
    return number(mean, digits) if std is None else f"{number(mean, digits)} ± {number(std, digits)}"
