"""What runs say, in the rows and claims of a study.json. Every word that judges comes from a number.

Legend: a point is (method, strength); its values are one number a seed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from tracerft.reports.record import write_text

Key = tuple[str, float, int]  # method, strength, seed
Results = Mapping[Key, Mapping[str, float]]


def points_of(results: Results) -> dict[tuple[str, float], list[Mapping[str, float]]]:
    """Measures by point, in the order of the seeds."""
    points: dict[tuple[str, float], list[Mapping[str, float]]] = {}
    for (method, strength, _), one in sorted(results.items(), key=lambda item: item[0][2]):
        points.setdefault((method, strength), []).append(one)
    return points


def select(results: Results) -> dict[str, float]:
    """For each method the strength with the highest mean of ``selection``."""
    best: dict[str, tuple[float, float]] = {}
    for (method, strength), seen in points_of(results).items():
        score = mean(v.get("selection", 0.0) for v in seen)
        if method not in best or score > best[method][0]:
            best[method] = (score, strength)
    return {method: strength for method, (_, strength) in best.items()}


def rows_of(
    results: Results,
    columns: Sequence[Mapping[str, Any]],
    labels: Mapping[str, str],
    shares: Mapping[str, float],
    chosen: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """One row a point, with the selected strength of each method marked.

    Args:
        results: measures by (method, strength, seed).
        columns: of the study; each key is a measure.
        labels: of the methods, in the order of the table.
        shares: of theta_0 in the final teacher, in percent, by method.
        chosen: strengths selected earlier; by default `select` on these results.
    """
    chosen = chosen or select(results)
    rows = []
    for (method, strength), values in points_of(results).items():
        row: dict[str, Any] = {
            "id": method,
            "method": labels[method],
            "strength": strength or None,
            "selected": chosen[method] == strength,
            "n": len(values),
            "pretrained_share": shares.get(method),
        }
        for column in ("selection", *(str(c["key"]) for c in columns if c["key"] != "pretrained_share")):
            row[column] = spread([v[column] for v in values if column in v])
        rows.append(row)
    order = list(labels)
    return sorted(rows, key=lambda row: order.index(row["id"]))


def spread(values: Sequence[float]) -> dict[str, Any] | None:
    """Mean and sample standard deviation (``None`` for one value), with the values."""
    if not values:
        return None
    std = stdev(values) if len(values) > 1 else None
    return {"mean": mean(values), "std": std, "values": list(values)}


def figure_claim(name: str, paper: str, cell: Mapping[str, Any], sign: str, bar: float, note: str) -> dict[str, Any]:
    """A mean against a bar."""
    value = cell["mean"]
    return claim(name, paper, f"{value:.1f}", value > bar if sign == ">" else value < bar, note)


def paired_claim(
    name: str, paper: str, better: Mapping[str, Any], worse: Mapping[str, Any], measure: str, slack: float = 0.0
) -> dict[str, Any]:
    """``better - worse + slack > 0``, judged on seed-paired differences beyond two standard errors."""
    a, b = better[measure]["values"], worse[measure]["values"]
    differences = [x - y for x, y in zip(a, b, strict=True)]
    gap = mean(differences)
    ours = f"{mean(a):.1f} against {mean(b):.1f} ({gap:+.1f})"
    if len(differences) < 2:
        return claim(name, paper, ours, gap + slack > 0, "one seed: a direction, no more")
    error = stdev(differences) / len(differences) ** 0.5
    note = f"difference {gap:+.2f} ± {error:.2f} (standard error, {len(differences)} paired seeds)"
    if abs(gap + slack) <= 2 * error:
        return claim(name, paper, ours, None, f"{note}: not settled")
    return claim(name, paper, ours, gap + slack > 0, note)


def write_figures(out: Path, drawn: Sequence[tuple[str, str, str, str]]) -> list[dict[str, str]]:
    """Write (name, title, SVG, caption) to ``out/figures``; returns the entries for study.json."""
    entries = []
    for name, title, svg, caption in drawn:
        write_text(out / "figures" / f"{name}.svg", svg)
        alt = f"{title}: the numbers are in the tables of this page"
        entries.append({"file": f"figures/{name}.svg", "title": title, "caption": caption, "alt": alt})
    return entries


def claim(name: str, paper: str, ours: str, holds: bool | None, note: str = "") -> dict[str, Any]:
    """A line of ``claims`` in study.json; ``holds`` comes from numbers, ``None`` says not tested, or not settled."""
    return {"id": name, "paper": paper, "ours": ours, "holds": None if holds is None else bool(holds), "note": note}
