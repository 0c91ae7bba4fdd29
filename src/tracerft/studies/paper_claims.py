"""What the paper's ImageNet tables say of pairs of their rows, held against ours."""

from collections.abc import Mapping, Sequence
from typing import Any

from tracerft.studies.paper_plan import PARTS
from tracerft.studies.results import claim, paired_claim

MEAN = "avg_shifts"
ECE = f"{MEAN}_ece"
# Pairs of rows that an ablation speaks of, as printed: the better one, the other, and in what.
PAIRS = {
    "8": [*((bits, "0000", MEAN) for bits in ("1000", "0100", "0010", "0001", "1111")), ("1111", "0000", ECE)],
    "9": [("0.1", "10.0", "imagenet"), ("1.5", "0.1", MEAN), ("1.5", "0.1", ECE)],
    "10": [("1", "2500", "imagenet"), ("2500", "1", ECE)],
    "11": [("1.5", "0.2", "imagenet"), ("0.2", "1.5", MEAN), ("0.2", "1.5", ECE)],
}


def claims_of(table: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of TRACER against every other finetuning method under shift, or of `PAIRS`.

    Only what the table's own numbers say: a pair whose published order is the other way round is no claim.

    Args:
        table: its number.
        rows: its rows, as in study.json.
    """
    at = {row["id"]: row for row in rows}
    pairs = PAIRS.get(table, [])
    if table not in PARTS:
        others = [row["id"].partition("-")[2] for row in rows]
        pairs = [("TRACER", name, key) for key in (MEAN, ECE) for name in others if name not in ("TRACER", "ZS")]
    found = []
    for better, worse, key in pairs:
        a, b = at.get(f"{table}-{better}"), at.get(f"{table}-{worse}")
        if a is not None and b is not None and f"published_{key}" in a:
            gap = a[f"published_{key}"] - b[f"published_{key}"]
            if gap < 0 if key.endswith("_ece") else gap > 0:
                found.append(_claim(a, b, key))
    return found


def _claim(better: Mapping[str, Any], worse: Mapping[str, Any], key: str) -> dict[str, Any]:
    """``better`` before ``worse``, judged on seeds that both have."""
    ece, where = key.endswith("_ece"), "on ImageNet" if key.startswith("imagenet") else "under shift"
    what = "has less calibration error" if ece else "is more accurate"
    published = f"{better[f'published_{key}']:.1f} against {worse[f'published_{key}']:.1f}"
    text = f"{better['method']}{_value(better)} {what} {where} than {_label(worse)}{_value(worse)} ({published})"
    name = f"{better['id']}-over-{worse['id'].partition('-')[2]}{'-ece' if ece else ''}"
    a, b = better[key], worse[key]
    if a is None or b is None or better["seeds"] != worse["seeds"]:
        return claim(name, text, "not run", None, "a run or a shift is missing")
    high, low = (worse, better) if ece else (better, worse)  # the error of the worse is to be above
    return paired_claim(name, text, high, low, key) | {"ours": f"{a['mean']:.1f} against {b['mean']:.1f}"}


def _label(row: Mapping[str, Any]) -> str:
    return str(row["method"]).partition(": ")[2]


def _value(row: Mapping[str, Any]) -> str:
    return "" if row["strength"] is None else f" {row['strength']:g}"
