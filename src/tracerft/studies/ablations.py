"""The ablations (Tables 8 to 11): which terms, how strongly, how often the teacher is updated, which kernel.

Every setting is run at every seed, and nothing is selected. What equals TRACER itself is run once.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from tracerft.api import Run
from tracerft.config import FinetuneConfig
from tracerft.reports.figures import bars, front
from tracerft.studies import published_ablations as published
from tracerft.studies.published_ablations import Published
from tracerft.studies.results import paired_claim, spread, write_figures
from tracerft.studies.runner import Progress, write_study
from tracerft.studies.variants import finish_all, length, seeds_said, variant
from tracerft.studies.worlds import World

TERMS = {"fd": "FD", "cross_kd": "CrossKD", "icl": "ICL", "crd": "CRD"}  # in the order of Table 8
EVERY = "steps between updates, {}"
OUR_STRENGTH = 0.9  # of all other parts; Table 9 leaves it out
PUBLISHED_KEYS = ("published_id", "published_shifts", "published_ece_id", "published_ece_shifts")
COLUMNS: list[dict[str, Any]] = [
    {"key": "pretrained_share", "label": "Pretrained share in teacher", "unit": "%", "better": None, "digits": 2},
    *(
        {"key": key, "label": f"Published {what} (other pipeline)", "unit": "%", "better": None}
        for key, what in zip(PUBLISHED_KEYS, ("ImageNet", "five shifts", "ECE ImageNet", "ECE shifts"), strict=True)
    ),
]


@dataclass(frozen=True)
class Setting:
    """One row: a part of the study, a name in it, and what its run is told; ``value`` is what is varied."""

    part: str
    label: str
    value: float | None = None
    method: str = "tracer"
    key: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    published: Published | None = None

    @property
    def id(self) -> tuple[str, str, float | None]:
        """Unique in the study."""
        return self.part, self.label, self.value


def run(
    out: Path,
    world: World,
    *,
    seeds: int = 1,
    workers: int = 2,
    progress: Progress | None = None,
    command: str = "tracerft study ablations",
) -> Path:
    """Run what is missing, and write ``study.json`` (``part`` names the table of a row), figures and ``report.html``.

    Args:
        out: the study's folder; runs are in the world's.
        world: what is finetuned on.
        seeds: number of seeds of every setting.
        workers: processes.
        progress: told about every finished run.
        command: how the study was called, for the report.

    Returns:
        Path of the report.
    """
    started, settings = time.perf_counter(), settings_of(length(world))
    configs = {(s.id, seed): _config(world, s, seed) for s in settings for seed in range(seeds)}
    runs = finish_all(world, configs, workers, progress)
    start = [runs[settings[0].id, seed] for seed in range(seeds)]
    rows = [_row(world, Setting("start", "start"), start, "pretrained")]
    rows += [_row(world, s, [runs[s.id, seed] for seed in range(seeds)], "student") for s in settings]
    claims = _claims(rows, world)
    study = {
        "study": "ablations",
        "title": f"Ablations: {world.title}",
        "headline": _headline(rows, claims, seeds),
        "settings": {**world.settings, "lambda_SD of the other parts": OUR_STRENGTH, "selection": "none"},
        "columns": _columns(world),
        "rows": rows,
        "claims": claims,
        "figures": _figures(out, rows, world),
    }
    return write_study(out, study, command, started)


def settings_of(steps: int) -> list[Setting]:
    """Every row of the four tables for a run of ``steps``, with the paper's figures where it has some."""
    found: list[Setting] = []
    options: dict[str, Any]
    for on in product((0, 1), repeat=len(TERMS)):
        bits = "".join(map(str, on))
        label = " + ".join(n for n, bit in zip(TERMS.values(), on, strict=True) if bit) or "no term"
        options = {"loss": dict(zip(TERMS, map(float, on), strict=True))} if any(on) else {}
        method, key = ("tracer" if any(on) else "flyp"), f"tracer-terms-{bits}"
        found.append(Setting("terms", label, None, method, key, options, published.TERMS[bits]))
    for value in sorted({*published.SD_WEIGHT, OUR_STRENGTH}):
        printed = published.SD_WEIGHT.get(value)
        found.append(Setting("sd_weight", "lambda_SD", value, options={"strength": value}, published=printed))
    for weighting in ("point", "mass"):
        for every, theirs in intervals(steps).items():
            clock: dict[str, Any] = {"update_every": every, "weighting": weighting}
            options = {"teacher": clock}
            printed = published.UPDATE_EVERY[theirs] if weighting == "point" else None
            key = f"tracer-{weighting}-every-{every}"
            found.append(
                Setting("update_every", EVERY.format(weighting), float(every), "tracer", key, options, printed)
            )
    for b, printed in published.BETA.items():
        options = {"teacher": {"a": b, "b": b}}
        found.append(Setting("kernel", "Beta(b, b)", b, "tracer", f"tracer-beta-{b:g}", options, printed))
    return found


def intervals(steps: int) -> dict[int, int]:
    """Ours, 1 to T/10 steps, to the paper's of the same share of T; of several that fall together the most frequent."""
    found: dict[int, int] = {}
    for theirs in sorted(published.UPDATE_EVERY):
        found.setdefault(max(1, round(steps * theirs / published.STEPS)), theirs)
    return found


def _columns(world: World) -> list[Mapping[str, Any]]:
    """Both axes, the share and the paper's accuracies first, as a terminal shows the first columns only."""
    own = [c for c in world.columns if c["key"] != "pretrained_share"]
    axes = [c for c in own if c["key"] in world.axes]
    return [*axes, *COLUMNS[:3], *(c for c in own if c not in axes), *COLUMNS[3:]]


def _config(world: World, setting: Setting, seed: int) -> FinetuneConfig:
    return variant(world, setting.method, seed, setting.key, **setting.options)


def _row(world: World, setting: Setting, runs: Sequence[Run], model: str) -> dict[str, Any]:
    measured = [world.measures(one.results[model], one.results["pretrained"]) for one in runs]
    share = None if model == "pretrained" else runs[0].record["pretrained_weight"]
    keys = dict.fromkeys(str(c["key"]) for c in world.columns)
    return {
        "part": setting.part,
        "id": f"{setting.part}-{setting.label}",
        "method": setting.label,
        "strength": setting.value,
        "selected": False,
        "n": len(runs),
        **{key: spread([m[key] for m in measured if key in m]) for key in keys},
        "pretrained_share": None if share is None else 100.0 * share,
        **dict(zip(PUBLISHED_KEYS, setting.published or (None,) * 4, strict=True)),
    }


def _claims(rows: Sequence[Mapping[str, Any]], world: World) -> list[dict[str, Any]]:
    """What Tables 8 to 11 say of pairs of rows; the figures in the texts are the paper's own."""
    at = {(row["part"], row["method"], row["strength"]): row for row in rows}
    every = [row["strength"] for row in rows if row["method"] == EVERY.format("point")]
    term, weight = partial(_at, at, "terms"), partial(_at, at, "sd_weight", "lambda_SD")
    often, beta = partial(_at, at, "update_every", EVERY.format("point")), partial(_at, at, "kernel", "Beta(b, b)")
    inside, shift, all_terms = *world.axes, " + ".join(TERMS.values())
    pairs = [
        *((f"{k}-alone", f"{t} alone is better under shift than no term", term(t), term("no term"), shift, 0.0)
          for k, t in TERMS.items()),
        ("all-terms", "all four are better under shift than no term", term(all_terms), term("no term"), shift, 0.0),
        ("strong-task", "lambda_SD 10 learns less of the task than 0.1", weight(0.1), weight(10.0), inside, 0.0),
        ("strong-shift", "lambda_SD 1.5 is better under shift than 0.1", weight(1.5), weight(0.1), shift, 0.0),
        ("often-task", "updates every T/10 learn less of the task", often(1.0), often(every[-1]), inside, 0.0),
        ("often-shift", "updates every T/10 cost under a point of shift", often(every[-1]), often(1.0), shift, 1.0),
        ("ends-task", "Beta(.2, .2) learns less of the task than Beta(1.5, 1.5)", beta(1.5), beta(0.2), inside, 0.0),
        ("ends-shift", "Beta(.2, .2) is better under shift than Beta(1.5, 1.5)", beta(0.2), beta(1.5), shift, 0.0),
    ]  # fmt: skip
    found = []
    for name, text, better, worse, axis, slack in pairs:
        if better is not worse and better[axis] is not None and worse[axis] is not None:
            key = PUBLISHED_KEYS[0 if axis == inside else 1]
            said = f"{text} ({better[key]:.1f} against {worse[key]:.1f})"
            found.append(paired_claim(name, said, better, worse, axis, slack))
    return found


def _at(at: Mapping[Any, Mapping[str, Any]], part: str, label: str, value: float | None = None) -> Mapping[str, Any]:
    return at[part, label, value]


def _headline(rows: Sequence[Mapping[str, Any]], claims: Sequence[Mapping[str, Any]], seeds: int) -> list[str]:
    held, failed = ([c["id"] for c in claims if c["holds"] is verdict] for verdict in (True, False))
    return [
        f"{len(rows) - 1} settings of TRACER were run, {seeds_said(seeds)} each.",
        f"Of {len(claims)} claims {len(held)} held and {len(failed)} did not"
        + (f" ({', '.join(failed)})" if failed else "")
        + f"; {len(claims) - len(held) - len(failed)} stayed open.",
    ]


def _figures(out: Path, rows: Sequence[Mapping[str, Any]], world: World) -> list[dict[str, str]]:
    inside, outside = world.axes
    names = {c["key"]: f"{c['label']}, {c['unit']}" for c in world.columns}
    if rows[0][outside] is None:  # own data without shifts: the table says it all
        return []
    terms = [row for row in rows if row["part"] == "terms"]
    drawn = [("terms", "Which terms", bars(terms, outside, x_label=names[outside]), "Whiskers: deviation over seeds.")]
    parts = {"sd_weight": "How strongly", "update_every": "How often", "kernel": "Which kernel"}
    for part, title in parts.items():
        svg = front(
            [row for row in rows if row["part"] == part], inside, outside, x_label=names[inside],
            y_label=names[outside], reference=rows[0],
        )  # fmt: skip
        drawn.append((part.replace("_", "-"), title, svg, "A line joins the settings in order; the start is dotted."))
    return write_figures(out, drawn)
