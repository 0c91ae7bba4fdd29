"""The dynamics study (Figures 5 and 6): how far teacher and student are apart while training goes on.

Teachers by four rules, each updated after every step and fifty times a run. The half-life of an EMA is a share of T
whatever the interval of its updates; WMA's snapshots are weighted by the kernel at their time, as published.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracerft.api import Run
from tracerft.config import FinetuneConfig
from tracerft.methods.carot import UPDATES  # in a run: every 500 of 25,020 steps, as in Figure 6
from tracerft.reports.figures import curves
from tracerft.studies.results import paired_claim, spread, write_figures
from tracerft.studies.runner import Progress, write_study
from tracerft.studies.variants import curve_of, finish_all, length, seeds_said, variant
from tracerft.studies.worlds import World, momentum

PROBES = 24  # measurements in a run


@dataclass(frozen=True)
class Rule:
    """How a teacher follows the student; ``half_life`` of an EMA, as a share of T."""

    label: str
    method: str
    half_life: float | None = None


RULES = {
    "wma": Rule("WMA, Beta(.5, .5)", "tracer"),
    "ema-slow": Rule("EMA, half-life .5 T", "sd_ema", 0.5),
    "ema-fast": Rule("EMA, half-life .1 T", "sd_ema", 0.1),
    "carot": Rule("CaRot (its own losses)", "carot"),
}
MEASURES = {
    "gap_kl": ("KL(teacher || student)", "nats"),
    "teacher_entropy": ("Teacher's entropy", "nats"),
    "teacher_confidence": ("Teacher's confidence", "%"),
    "gap_weights": ("Distance of weights", "L2"),
}
COLUMNS: list[dict[str, Any]] = [
    *(
        {"key": k, "label": f"{label} at the end", "unit": unit, "better": None}
        for k, (label, unit) in MEASURES.items()
    ),
    {"key": "gap_left", "label": "Distance of weights at the end, of its largest", "unit": "%", "better": None},
    {"key": "pretrained_share", "label": "Pretrained share in teacher", "unit": "%", "better": None, "digits": 2},
]
Series = dict[str, list[float]]  # one value a measurement; "step" among them


def run(
    out: Path,
    world: World,
    *,
    seeds: int = 1,
    workers: int = 2,
    progress: Progress | None = None,
    command: str = "tracerft study dynamics",
) -> Path:
    """Run what is missing, read the measurements, and write ``study.json``, figures and ``report.html``.

    Args:
        out: the study's folder; runs are in the world's.
        world: what is finetuned on.
        seeds: number of seeds.
        workers: processes.
        progress: told about every finished run.
        command: how the study was called, for the report.

    Returns:
        Path of the report.
    """
    started, slow = time.perf_counter(), max(1, round(length(world) / UPDATES))
    intervals = tuple(dict.fromkeys((1, slow)))
    configs = {(k, f, s): _config(world, k, f, s) for f in intervals for k in RULES for s in range(seeds)}
    runs = finish_all(world, configs, workers, progress)
    series = {(k, f): [_series(runs[k, f, s]) for s in range(seeds)] for f in intervals for k in RULES}
    rows = [_row(key, series[key], runs[*key, 0].record["pretrained_weight"]) for key in series]
    study = {
        "study": "dynamics",
        "title": "Teacher and student over training",
        "headline": _headline(rows, seeds, slow),
        "settings": {
            **world.settings,
            "strength": "published values",
            "updates": f"every step, and every {slow} steps (T/{UPDATES})",
            "measured on": "the first batch of held-out training images",
        },
        "columns": COLUMNS,
        "rows": rows,
        "claims": _claims(rows),
        "figures": _figures(out, series),
    }
    return write_study(out, study, command, started)


def _config(world: World, key: str, every: int, seed: int) -> FinetuneConfig:
    rule, total = RULES[key], length(world)
    if rule.method == "carot":  # by itself it updates as often as published
        teacher: dict[str, Any] = {} if every == max(1, round(total / UPDATES)) else {"carot_every": every}
    elif rule.half_life is None:
        teacher = {"update_every": every}
    else:
        teacher = {"momentum": momentum(total, rule.half_life), "update_every": every}
        teacher |= {"weighting": "mass"} if every > 1 else {}  # forgets as much in an interval as in its steps
    folder = {"wma": f"tracer-point-every-{every}"}.get(key, f"{key}-every-{every}")
    probe = world.base.train.probe_every or max(1, total // PROBES)
    return variant(world, rule.method, seed, folder, teacher=teacher, probe_every=probe)


def _series(one: Run) -> Series:
    """The measurements of a run; confidence in percent."""
    lines = [json.loads(line) for line in (one.folder / "metrics.jsonl").read_text().splitlines()]
    measured = [line for line in lines if "gap_weights" in line]
    found = {key: [float(line[key]) for line in measured] for key in ("step", *MEASURES)}
    found["teacher_confidence"] = [100.0 * value for value in found["teacher_confidence"]]
    return found


def _row(key: tuple[str, int], series: Sequence[Series], share: float) -> dict[str, Any]:
    """What stands at the end of a run, a value a seed; ``strength`` is the interval of updates."""
    name, every = key
    left = [100.0 * of["gap_weights"][-1] / max(of["gap_weights"]) if max(of["gap_weights"]) else 0.0 for of in series]
    return {
        "id": name,
        "method": f"{RULES[name].label}, every {every} step{'s' if every > 1 else ''}",
        "strength": every,
        "selected": False,
        "n": len(series),
        "pretrained_share": 100.0 * share,
        "gap_left": spread(left),
        **{measure: spread([of[measure][-1] for of in series]) for measure in MEASURES},
    }


def _claims(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Theorem C.6 and the sentence after it."""
    at = {(row["id"], row["strength"]): row for row in rows}
    text = "the gap to a WMA teacher stays to the end of the run, that to {} closes (Theorem C.6)"
    return [
        paired_claim(f"gap-{name}", text.format(label), at["wma", 1], at[name, 1], "gap_left")
        for name, label in (("ema-slow", "a slow EMA"), ("ema-fast", "a fast EMA"))
    ]


def _headline(rows: Sequence[Mapping[str, Any]], seeds: int, slow: int) -> list[str]:
    words = [f"{RULES[row['id']].label} {row['gap_left']['mean']:.0f} %" for row in rows if row["strength"] == 1]
    return [
        f"Four teachers were followed over training, updated every step and every {slow} steps, {seeds_said(seeds)}.",
        f"Distance of teacher and student in weights at the end, of its largest: {'; '.join(words)} (every step).",
    ]


def _figures(out: Path, series: Mapping[tuple[str, int], Sequence[Series]]) -> list[dict[str, str]]:
    drawn = []
    for every in dict.fromkeys(f for _, f in series):
        for measure, (label, unit) in MEASURES.items():
            lines = []
            for name, rule in RULES.items():
                found = series[name, every]
                cells = [spread(values) or {} for values in zip(*(of[measure] for of in found), strict=True)]
                lines.append(curve_of(rule.label, found[0]["step"], cells))
            title = f"{label}, teacher updated every {every} step{'s' if every > 1 else ''}"
            svg = curves(lines, x_label="optimiser step", y_label=f"{label}, {unit}")
            drawn.append((f"{measure.replace('_', '-')}-every-{every}", title, svg, "Held-out training images."))
    return write_figures(out, drawn)
