"""The cost study (Table 4): time and memory of a training step of every method, with one trainer.

Methods take turns (A B C A B C ...), each in a process of its own and alone, one round a seed. A round is kept only
as a whole, so that its methods were measured beside one another.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

from tracerft.config import FinetuneConfig
from tracerft.errors import RunFolderError
from tracerft.methods import METHODS
from tracerft.reports.figures import bars
from tracerft.studies import step_cost
from tracerft.studies.compare import arms_of
from tracerft.studies.published_ablations import COST
from tracerft.studies.results import claim, write_figures
from tracerft.studies.runner import Progress, kept, write_study
from tracerft.studies.step_cost import step_cost_apart
from tracerft.studies.variants import variant
from tracerft.studies.worlds import World

BASES = {"ratio_flyp": "flyp", "ratio_ce": "ce_ft"}
COLUMNS: list[dict[str, Any]] = [
    {"key": "step_ms", "label": "Step", "unit": "ms", "better": "lower", "digits": 1},
    {
        "key": "ratio_flyp",
        "label": "Against direct finetuning, contrastive",
        "unit": "x",
        "better": "lower",
        "digits": 2,
    },
    {
        "key": "ratio_ce",
        "label": "Against direct finetuning, cross-entropy",
        "unit": "x",
        "better": "lower",
        "digits": 2,
    },
    {"key": "published", "label": "Published ratio (other pipeline)", "unit": "x", "better": None, "digits": 2},
    {"key": "memory_mib", "label": "Peak memory", "unit": "MiB", "better": "lower", "digits": 0},
    {"key": "added_mib", "label": "Of it added by training", "unit": "MiB", "better": "lower", "digits": 0},
    {"key": "data_ms", "label": "Making a batch", "unit": "ms", "better": None, "digits": 1},
]
Round = Mapping[str, Mapping[str, float]]  # method, measure


def run(
    out: Path,
    world: World,
    *,
    seeds: int = 3,
    progress: Progress | None = None,
    command: str = "tracerft study cost",
) -> Path:
    """Measure what is missing, and write ``study.json``, a figure and ``report.html``.

    Args:
        out: the study's folder.
        world: what is finetuned on.
        seeds: rounds, each with the start and data order of its seed.
        progress: told about every measurement.
        command: how the study was called, for the report.

    Returns:
        Path of the report.
    """
    started = time.perf_counter()
    names = [name for name in arms_of((), 1, world.without) if METHODS[name].trains]
    rounds = [_round(out, world, names, seed, seeds, progress) for seed in range(seeds)]
    rows = [_row(name, rounds) for name in names]
    study = {
        "study": "cost",
        "title": "What a training step costs",
        "headline": _headline(rows, seeds),
        "settings": {**world.settings, **_settings(world)},
        "values": "Medians over n rounds; study.json has each.",
        "columns": COLUMNS,
        "rows": rows,
        "claims": _claims(rounds),
        "figures": _figures(out, rows),
    }
    return write_study(out, study, command, started)


def _settings(world: World) -> dict[str, Any]:
    return {
        "measured": f"{step_cost.STEPS} steps after {step_cost.WARM_UP}, each method in its own process, one thread",
        "time": "median over the steps: of the processor's work on a CPU, else by the clock on the wall",
        "ratios": "of the same round",
        "frozen": world.base.freeze,
        "in brackets": "forwards of the image tower a pair and step as published; tau is a text forward in that unit",
    }


def _round(out: Path, world: World, names: Sequence[str], seed: int, seeds: int, progress: Progress | None) -> Round:
    """The measurements of one round, kept in the study's folder.

    Raises:
        RunFolderError: if a kept round was measured in another setting.
    """
    wanted = {"methods": list(names), "steps": [step_cost.WARM_UP, step_cost.STEPS], "config": _described(world, seed)}
    path = out / "rounds" / f"seed{seed}.json"

    def measure() -> dict[str, Any]:
        measured = {}
        for i, name in enumerate(names, seed * len(names)):
            if progress:
                progress(i, seeds * len(names), f"measuring {name}")
            measured[name] = step_cost_apart(variant(world, name, seed), world.read)
        return {"of": wanted, "measured": measured}

    found = kept(path, measure)
    if found.get("of") != wanted:
        raise RunFolderError(f"{path}: a round in another setting; give the study another --out, or remove the file")
    measured: Round = found["measured"]
    return measured


def _described(world: World, seed: int) -> dict[str, Any]:
    base: FinetuneConfig = replace(world.base, model=world.starts[seed], out="")
    return asdict(base)


def _row(name: str, rounds: Sequence[Round]) -> dict[str, Any]:
    """Medians over rounds; the values of each round are under ``rounds``."""
    values = {key: [of[name][key] for of in rounds] for key in ("step_ms", "data_ms", "memory_mib", "added_mib")}
    values |= {key: _ratios(rounds, name, base) for key, base in BASES.items()}
    return {
        "id": name,
        "method": f"{name} ({METHODS[name].cost})",
        "flop_units": METHODS[name].cost,
        "strength": None,
        "selected": False,
        "n": len(rounds),
        **{key: median(of) for key, of in values.items()},
        "published": COST.get(name),
        "rounds": values,
    }


def _ratios(rounds: Sequence[Round], name: str, base: str) -> list[float]:
    return [of[name]["step_ms"] / of[base]["step_ms"] for of in rounds]


def _claims(rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """Table 4: TRACER between direct finetuning and CaRot."""
    direct, carot = _ratios(rounds, "tracer", "ce_ft"), _ratios(rounds, "tracer", "carot")
    return [
        _below("direct", f"a step of TRACER costs {COST['tracer']} times that of direct finetuning", direct, 1.5),
        _below("carot", f"TRACER costs less than CaRot ({COST['tracer']} against {COST['carot']})", carot, 1.0),
    ]


def _below(name: str, text: str, ratios: Sequence[float], bar: float) -> dict[str, Any]:
    """Whether the median ratio is below a bar; open where rounds disagree."""
    agree = len({ratio < bar for ratio in ratios}) == 1
    note = f"the bar is {bar:g}; {min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} round(s)"
    return claim(name, text, f"{median(ratios):.2f}", median(ratios) < bar if agree else None, note)


def _headline(rows: Sequence[Mapping[str, Any]], seeds: int) -> list[str]:
    at = {row["id"]: row for row in rows}
    words = [f"{n} {at[n]['ratio_flyp']:.2f} and {at[n]['ratio_ce']:.2f}" for n in ("tracer", "carot")]
    return [
        f"The steps of {len(rows)} methods were measured in {seeds} interleaved round{'s' if seeds > 1 else ''}.",
        f"Against direct finetuning, contrastive and cross-entropy: {'; '.join(words)} times.",
    ]


def _figures(out: Path, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    svg = bars(rows, "ratio_flyp", label="id", x_label="step against direct finetuning, contrastive")
    return write_figures(out, [("ratio", "Time of a step", svg, "Medians over rounds; loading of data left out.")])
