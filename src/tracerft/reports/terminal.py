"""Results as terminal tables."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tracerft.reports.study import SHORT, chosen_rows, column_digits, has_strengths
from tracerft.reports.tables import MISSING, number, rich_table, spread

if TYPE_CHECKING:
    from rich.table import Table


def print_table(headers: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None) -> None:
    """Print a table on stdout, as wide as the terminal allows."""
    from rich.console import Console

    Console().print(rich_table(headers, rows, title=title))


def results_table(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Accuracy with its 95 % interval and ECE of every model on every split; recall where a split is retrieved.

    Args:
        results: ``{model: {split: fields of record.json}}``.

    Returns:
        Plain text, one line a model and split.
    """
    lines = [
        (split, model, of_model[split])
        for split in dict.fromkeys(s for of_model in results.values() for s in of_model)
        for model, of_model in results.items()
        if split in of_model
    ]
    tables = (
        (["split", "model", "n", "top-1 %", "95 % interval", "ECE %"], _classified, "top1"),
        (["split", "model", "n", "image to text R@1 %", "R@5 %", "text to image R@1 %", "R@5 %"], _retrieved, RECALL),
        (["split", "model", "worst group", "top-1 %"], _worst, "worst_group"),
        (["split", "model", "macro F1 %"], _macro_f1, "macro_f1"),
    )
    texts = []
    for headers, cells, field in tables:
        rows = [[split, model, *cells(metrics)] for split, model, metrics in lines if _asked(field, metrics)]
        if rows:
            texts.append(_text(rich_table(headers, rows)))
    return "\n".join(texts)


def guard_lines(guard: Mapping[str, Any]) -> list[str]:
    """What a record's entry ``guard`` proposes, and which point to take at other exchange rates; none without one."""
    lines = [f"guarded: {guard['note']}"] if guard else []
    parts = []
    for piece in guard.get("exchange") or []:  # records of 0.1.0 have none
        low, high = (None if rate is None else f"{rate:.3g}" for rate in (piece["from"], piece["to"]))
        share = "" if piece["alpha"] in (0, 1) else f"{piece['alpha']:g} of "
        parts.append(f"{f'above {low}' if high is None else f'{low} to {high}'}: {share}{piece['model']}")
    return [*lines, f"to take at an exchange rate of {'; '.join(parts)}"] if parts else lines


RECALL = "image_to_text_r1"


def _classified(metrics: Mapping[str, Any]) -> list[str]:
    low, high = metrics["top1_ci95"]
    interval = f"[{100 * low:.1f}, {100 * high:.1f}]"
    return [str(metrics["n"]), _percent(metrics["top1"]), interval, _percent(metrics["ece_15"])]


def _retrieved(metrics: Mapping[str, Any]) -> list[str]:
    recalls = [f"{direction}_r{k}" for direction in ("image_to_text", "text_to_image") for k in (1, 5)]
    return [str(metrics["n"]), *(_percent(metrics.get(name)) for name in recalls)]


def _worst(metrics: Mapping[str, Any]) -> list[str]:
    return [str(metrics["worst_group_name"]), _percent(metrics["worst_group"])]


def _macro_f1(metrics: Mapping[str, Any]) -> list[str]:
    return [_percent(metrics["macro_f1"])]


def _asked(field: str, metrics: Mapping[str, Any]) -> bool:
    """Every labelled split has a macro F1; it is shown where the split asks for it."""
    return field in metrics and (field != "macro_f1" or metrics.get("metric") == field)


def _percent(value: float | None) -> str:
    return MISSING if value is None else f"{100 * value:.1f}"


def _text(table: "Table") -> str:
    from rich.console import Console

    text = io.StringIO()
    Console(file=text, width=100).print(table)
    return text.getvalue().rstrip()


def print_study(study: Mapping[str, Any]) -> None:
    """Headline, selected rows and claims of a study on stdout."""
    from rich.console import Console

    console = Console(highlight=False)
    for sentence in study["headline"]:
        console.print(sentence, markup=False)
    chosen = chosen_rows(study)
    room = max(1, min(SHORT, (console.width - 28) // 12))  # columns of numbers beside method and strength
    columns = [c for c in study["columns"] if any(row.get(c["key"]) is not None for row in chosen)][:room]
    strengths = has_strengths(chosen)
    headers = [f"{c['label']} {c['unit'] or ''}".strip().replace(" ", "\n") for c in columns]
    headers = ["method", *(["strength"] if strengths else []), *headers]
    rows = [[r["method"], *([r.get("strength")] if strengths else []), *(_cell(r, c) for c in columns)] for r in chosen]
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
