"""All methods in one setting: the same data order, steps, optimiser, evaluation and number of strengths for each.

Strengths are chosen at seed 0 on held-out training data; the chosen ones are then run at all seeds. Runs are shared
with other studies in the same folder, and a run that is finished is not made again.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tracerft.api import Run
from tracerft.averaging import Clock, final_pretrained_weight
from tracerft.config import FinetuneConfig
from tracerft.errors import ArgumentError, one_of
from tracerft.methods import METHODS
from tracerft.preparing import ingredients
from tracerft.reports.figures import bars, front
from tracerft.studies.merged import merged_results
from tracerft.studies.published import PUBLISHED
from tracerft.studies.results import Key, paired_claim, rows_of, select, write_figures
from tracerft.studies.runner import Progress, finished_runs, path_results, run_all, write_study
from tracerft.studies.worlds import World

# Five strengths a method, its published value among them where there is one; a budget of fewer takes the middle.
STRENGTHS: dict[str, tuple[float, ...]] = {
    "loss.sd_weight": (0.3, 0.9, 3.0, 10.0, 30.0),
    "loss.l2_sp": (0.1, 0.3, 1.0, 3.0, 10.0),
    "loss.logit_kd": (0.1, 0.3, 1.0, 3.0, 10.0),
    "loss.feature_kd": (1.0, 3.0, 10.0, 30.0, 100.0),
    "loss.context": (0.1, 0.3, 1.0, 3.0, 10.0),
    "loss.energy": (0.01, 0.1, 1.0, 10.0, 100.0),
    "loss.ldifs": (1.0, 3.0, 10.0, 30.0, 100.0),
    "loss.carot_sd": (0.15, 0.5, 1.5, 5.0, 15.0),
}
PATHS = {"wise_ft": "flyp", "wise_ce": "ce_ft"}  # WiSE-FT is the path of a run, at no cost
ALPHAS = 6  # points of a path, ends included
COLUMNS: tuple[dict[str, Any], ...] = (
    {"key": "cost", "label": "Step against FLYP", "unit": "x", "better": "lower", "digits": 2},
    {"key": "published_id", "label": "Paper, ImageNet (other pipeline)", "unit": "%", "better": None},
    {"key": "published_ood", "label": "Paper, four shifts (other pipeline)", "unit": "%", "better": None},
)


def run(
    out: Path,
    world: World,
    *,
    methods: Sequence[str] = (),
    seeds: int = 1,
    budget: int = 5,
    only_finished: bool = False,
    workers: int = 2,
    progress: Progress | None = None,
    command: str = "tracerft study compare",
) -> Path:
    """Run the study and write ``study.json``, figures and ``report.html``.

    Args:
        out: the study's folder.
        world: what is compared on.
        methods: names from the METHODS table; all by default.
        seeds: number of seeds for the selected strengths.
        budget: strengths of each method at seed 0: 1, 3 or 5.
        only_finished: run nothing, table what is finished.
        workers: processes.
        progress: told about every finished run.
        command: how the study was called, for the report.

    Returns:
        Path of the report.
    """
    started = time.perf_counter()
    arms = arms_of(methods, budget, world.without)
    first = {(m, s, 0): _config(world, m, s, 0) for m, strengths in arms.items() for s in strengths}
    runs = _runs(first, only_finished, workers, progress, world)
    chosen = select({key: found[0] for key, found in _measured(world, runs).items()})
    later = {
        (m, chosen[m], seed): _config(world, m, chosen[m], seed)
        for m in arms
        if m in chosen
        for seed in range(1, seeds)
    }
    runs |= _runs(later, only_finished, workers, progress, world)
    if not runs:
        raise ArgumentError(f"`only_finished`: no run of these methods is finished in {out}")
    results = {key: found | {"cost": cost} for key, (found, cost) in _measured(world, runs).items()}
    results |= merged_results(out, world, runs, seeds, methods, workers, only_finished, progress)
    labels = _labels(results)
    selected = select(results) | chosen  # what was chosen at seed 0 stays chosen; merges have one strength
    found = rows_of(results, [*world.columns, COLUMNS[0]], labels, _shares(world, arms), selected)
    rows = [_with_published(row) for row in found]
    study = {
        "study": "compare",
        "title": world.title,
        "headline": _headline(rows, world, seeds),
        "settings": _settings(world, methods, budget),
        "columns": [*world.columns, *COLUMNS],
        "rows": rows,
        "claims": _claims(rows, world),
        "figures": _figures(out, rows, world),
    }
    return write_study(out, study, command, started)


def _settings(world: World, methods: Sequence[str], budget: int) -> dict[str, Any]:
    left_out = {f"not run: {name}": why for name, why in world.without.items() if not methods}
    return {
        **world.settings,
        "strengths a method": budget,
        "selection": "held-out training data, seed 0",
        "soups": "three runs of ce_ft from one start: two data orders, and a third of the rate in a third order",
        **left_out,
    }


def arms_of(methods: Sequence[str], budget: int, without: Mapping[str, str]) -> dict[str, tuple[float, ...]]:
    """Strengths of each method that has runs of its own; what is made from runs brings those."""
    one_of("budget", str(budget), ("1", "3", "5"))
    for name in methods:
        one_of("methods", name, (*METHODS, *PATHS))
    derived = {*PATHS, "zero_shot"}
    runnable = [n for n, info in METHODS.items() if info.build is not None and n not in derived]
    wanted = {PATHS.get(n, n) for n in methods} or {n for n in runnable if n not in without}
    wanted |= {"ce_ft"} if any(n in METHODS and METHODS[n].build is None for n in methods) else set()
    drop = (5 - budget) // 2
    arms = {}
    for name in runnable:
        if name in wanted:
            five = STRENGTHS.get(METHODS[name].strength)
            arms[name] = (0.0,) if five is None else five[drop : 5 - drop]
    return arms


def _config(world: World, method: str, strength: float, seed: int) -> FinetuneConfig:
    option = METHODS[method].strength
    return world.config(method, method, (option, strength) if option else None, seed)


def _runs(
    configs: Mapping[Key, FinetuneConfig], only_finished: bool, workers: int, progress: Progress | None, world: World
) -> dict[Key, Run]:
    if only_finished:
        return finished_runs(configs)
    return dict(zip(configs, run_all(list(configs.values()), workers, progress, world.read), strict=True))


def _measured(world: World, runs: Mapping[Key, Run]) -> dict[Key, tuple[dict[str, float], float]]:
    """Percentages of every run, of its paths, and what a step cost against FLYP's."""
    direct = _seconds(runs, "flyp")
    found: dict[Key, tuple[dict[str, float], float]] = {}
    for key, one in runs.items():
        start, model = one.results["pretrained"], "average" if "average" in one.results else "student"
        seconds = one.record.get("seconds_per_step")
        cost = seconds / direct if seconds and direct else 0.0
        found[key] = world.measures(one.results[model], start), cost
        found["zero_shot", 0.0, key[2]] = world.measures(start, start), 0.0
        for path, source in PATHS.items():
            if key[0] == source:
                for name, results in path_results(one, ALPHAS, world.read).items():
                    found[path, float(name.rpartition("-")[2]), key[2]] = world.measures(results, start), cost
    return found


def _seconds(runs: Mapping[Key, Run], method: str) -> float | None:
    known = [r.record["seconds_per_step"] for k, r in runs.items() if k[0] == method and "seconds_per_step" in r.record]
    return sum(known) / len(known) if known else None


def _labels(results: Mapping[Key, Any]) -> dict[str, str]:
    """Names in the table's order; what is not a method of the table stands beside what it is made of."""
    extra = {"wise_ce": "wise_ft of ce_ft", "dawin": "dawin (transductive)"}
    order = [*METHODS, *(k for k in extra if k not in METHODS)]
    present = {key[0] for key in results}
    return {name: extra.get(name, name) for name in order if name in present}


def _shares(world: World, arms: Mapping[str, Any]) -> dict[str, float]:
    shares = {}
    for name in arms:
        kernel = METHODS[name].kernel
        if kernel is not None:
            of = ingredients(_config(world, name, STRENGTHS.get(METHODS[name].strength, (0.0,))[0], 0))
            shares[name] = 100.0 * final_pretrained_weight(kernel(of), Clock(world.base.train.steps))
    return shares


def _with_published(row: dict[str, Any]) -> dict[str, Any]:
    inside, outside = PUBLISHED.get(row["id"], (None, None))
    cost = row["cost"]
    trained = cost is not None and cost["mean"] > 0
    return row | {"published_id": inside, "published_ood": outside, "cost": cost if trained else None}


def _claims(rows: Sequence[Mapping[str, Any]], world: World) -> list[dict[str, Any]]:
    """Table 2's order under shift: TRACER before every other method."""
    at = {row["id"]: row for row in rows if row["selected"]}
    where = next(str(c["label"]).lower() for c in world.columns if c["key"] == world.axes[1])
    found = []
    for name, (_, outside) in PUBLISHED.items():
        if name != "tracer" and name in at and "tracer" in at and _seeds(at[name]) == _seeds(at["tracer"]):
            text = (
                f"TRACER beats {name} under shift ({PUBLISHED['tracer'][1]:.1f} against {outside:.1f}); here: {where}"
            )
            found.append(paired_claim(f"over-{name}", text, at["tracer"], at[name], world.axes[1]))
    return found


def _seeds(row: Mapping[str, Any]) -> int:
    return int(row["n"])


def _headline(rows: Sequence[Mapping[str, Any]], world: World, seeds: int) -> list[str]:
    at = {row["id"]: row for row in rows if row["selected"]}
    inside, outside = world.axes
    names = {c["key"]: str(c["label"]).lower() for c in world.columns}
    best: Callable[[str], Mapping[str, Any]] = lambda key: max(at.values(), key=lambda r: r[key]["mean"])  # noqa: E731
    said = [
        f"{len(at)} methods were compared with one data order, {world.base.train.steps} steps and "
        f"{seeds} seed{'s' if seeds > 1 else ''} at the selected strengths."
    ]
    for key in (inside, outside):
        row = best(key)
        said.append(f"Best on {names[key]}: {row['method']}, {row[key]['mean']:.1f} %.")
    shown = [n for n in ("zero_shot", "ce_ft", "flyp", "tracer") if n in at]
    words = [f"{n} {at[n][inside]['mean']:.1f} and {at[n][outside]['mean']:.1f}" for n in shown]
    return [*said, f"{names[inside]} and {names[outside]}, in %: {'; '.join(words)}."]


def _figures(out: Path, rows: Sequence[Mapping[str, Any]], world: World) -> list[dict[str, str]]:
    chosen = [row for row in rows if row["selected"]]
    start = next((row for row in chosen if row["id"] == "zero_shot"), chosen[0])
    inside, outside = world.axes
    names = {c["key"]: f"{c['label']}, {c['unit']}" for c in world.columns}
    scatter = front(
        [r for r in chosen if r is not start], inside, outside, reference=start, x_label=names[inside],
        y_label=names[outside],
    )  # fmt: skip
    line = "Each method at its selected strength; up and to the right is better."
    drawn = [
        ("front", f"{names[outside]} against {names[inside]}", scatter, line),
        ("shift", names[outside], bars(chosen, outside, x_label=names[outside]), "At selected strengths."),
    ]
    return write_figures(out, drawn)
