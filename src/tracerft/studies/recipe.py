"""Compare the candidates for the default of the `folder-small` preset, every one at every seed.

Nothing is selected: each candidate has fixed options, so the table can be read row by row.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracerft.reports.figures import bars, front
from tracerft.studies.results import paired_claim, rows_of, write_figures
from tracerft.studies.runner import Progress, write_study
from tracerft.studies.variants import finish_all, length, seeds_said, variant
from tracerft.studies.worlds import World


@dataclass(frozen=True)
class Candidate:
    """A row of the table: a method with one strength and, where it is not alone in that, other loss options."""

    label: str
    method: str
    strength: float | None = None
    loss: Mapping[str, float] = field(default_factory=dict)


DIRECT = "flyp"  # plain finetuning, what every candidate is compared with
START = "start"
CANDIDATES: dict[str, Candidate] = {
    DIRECT: Candidate("flyp", "flyp"),
    "ce_ft": Candidate("ce_ft", "ce_ft"),
    "ftp": Candidate("ftp", "ftp"),
    "ldifs-10": Candidate("ldifs, 10", "ldifs", 10.0),
    "ldifs-30": Candidate("ldifs, 30", "ldifs", 30.0),
    "l2_sp-3": Candidate("l2_sp, 3", "l2_sp", 3.0),
    "tracer-fd-0.3": Candidate("tracer, FD 0.3", "tracer", 0.9, {"fd": 0.3}),
    "tracer-fd-1": Candidate("tracer, FD 1", "tracer", 0.9),
    "tracer-fd-3": Candidate("tracer, FD 3", "tracer", 0.9, {"fd": 3.0}),
    "tracer-fd-10": Candidate("tracer, FD 10", "tracer", 0.9, {"fd": 10.0}),
    "tracer-fd-1-half": Candidate("tracer, FD 1, half strength", "tracer", 0.45),
    "tracer-fd-10-half": Candidate("tracer, FD 10, half strength", "tracer", 0.45, {"fd": 10.0}),
}


def run(
    out: Path,
    world: World,
    *,
    seeds: int = 1,
    workers: int = 2,
    progress: Progress | None = None,
    command: str = "tracerft study recipe",
) -> Path:
    """Run the missing candidates and write ``study.json``, figures and ``report.html``.

    Args:
        out: the study's folder; runs are in the world's.
        world: start, data, suite and length.
        seeds: number of seeds of every candidate.
        workers: number of runs at a time.
        progress: called after every finished run.
        command: the command line, for the report.

    Returns:
        Path of the report.
    """
    started = time.perf_counter()
    configs = {
        (key, seed): variant(world, c.method, seed, key, strength=c.strength, loss=c.loss)
        for key, c in CANDIDATES.items()
        for seed in range(seeds)
    }
    runs = finish_all(world, configs, workers, progress)
    results = {}
    for (key, seed), one in runs.items():
        start = one.results["pretrained"]
        results[key, 0.0, seed] = world.measures(one.results["student"], start)
        results[START, 0.0, seed] = world.measures(start, start)
    labels = {START: "start"} | {key: c.label for key, c in CANDIDATES.items()}
    rows = rows_of(results, world.columns, labels, {})
    study = {
        "study": "recipe",
        "title": f"Candidates for folder-small: {world.title}",
        "headline": _headline(rows, world, seeds),
        "settings": {**world.settings, "selection": "none; every candidate runs at every seed"},
        "columns": list(world.columns),
        "rows": rows,
        "claims": _claims(rows, world),
        "figures": _figures(out, rows, world),
    }
    return write_study(out, study, command, started)


def _claims(rows: list[dict[str, Any]], world: World) -> list[dict[str, Any]]:
    """Each candidate against plain finetuning, on the task and under shift."""
    names = {c["key"]: str(c["label"]).lower() for c in world.columns}
    direct = next(row for row in rows if row["id"] == DIRECT)
    return [
        paired_claim(
            f"{row['id']}-{axis}", f"{row['method']} is better than {DIRECT}: {names[axis]}", row, direct, axis
        )
        for row in rows
        if row["id"] not in (DIRECT, START)
        for axis in world.axes
        if row[axis] is not None
    ]


def _headline(rows: list[dict[str, Any]], world: World, seeds: int) -> list[str]:
    said = [f"{len(rows) - 1} candidates, {length(world)} steps, {seeds_said(seeds)} each."]
    for column in world.columns:
        if (key := column["key"]) in (*world.axes, "retention") and rows[0].get(key) is not None:
            best = max((r for r in rows if r["id"] != START), key=lambda r: r[key]["mean"])
            said.append(f"Highest {str(column['label']).lower()}: {best['method']}, {best[key]['mean']:.1f} %.")
    return said


def _figures(out: Path, rows: list[dict[str, Any]], world: World) -> list[dict[str, str]]:
    inside, outside = world.axes
    names = {c["key"]: f"{c['label']}, {c['unit']}" for c in world.columns}
    if rows[0].get(outside) is None:  # own data without shifts: only the table
        return []
    trained = [row for row in rows if row["id"] != START]
    scatter = front(
        trained, inside, outside, reference=rows[0], x_label=names[inside], y_label=names[outside]
    )  # fmt: skip
    title = f"{names[outside]} against {names[inside]}"
    drawn = [("front", title, scatter, "Up and to the right is better; the start is dotted.")]
    drawn.append(("shift", names[outside], bars(trained, outside, x_label=names[outside]), "Mean over seeds."))
    return write_figures(out, drawn)
