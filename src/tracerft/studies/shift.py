"""The shift study: finetune in one style, and see what is gained and lost in the others.

Every method gets the same start, data order, steps, optimiser, evaluation and number of strengths. Strengths are
chosen at seed 0 on held-out training things of the finetuned style; the chosen ones are then run at all seeds.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from tracerft.api import Run
from tracerft.averaging import Clock, beta_kernel, exponential_kernel, final_pretrained_weight
from tracerft.config import FinetuneConfig, TrainConfig
from tracerft.errors import one_of
from tracerft.models.weights import save_model
from tracerft.reports.figures import bars, front, grouped_bars
from tracerft.studies.results import Key, figure_claim, paired_claim, rows_of, select, write_figures
from tracerft.studies.runner import Progress, at_least_one, path_results, run_all, write_study
from tracerft.studies.shift_data import ALIGNED, domains, is_emoji, parts
from tracerft.studies.shift_start import shift_start
from tracerft.studies.worlds import EMA_HALF_LIFE, World, momentum

STRENGTHS = (0.3, 0.9, 3.0, 10.0, 30.0)
L2_STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0)
FD_WEIGHTS = (3.0, 10.0, 30.0)  # of FD within the four terms, at sd_weight 0.9; 1 is TRACER itself
ALPHAS = 6  # points of WiSE-FT, ends included


@dataclass(frozen=True)
class Arm:
    """A method of the study and the option that is its strength."""

    label: str
    method: str
    option: str | None = None
    strengths: tuple[float, ...] = (0.0,)
    loss: Mapping[str, float] = field(default_factory=dict)


ARMS: dict[str, Arm] = {
    "flyp": Arm("direct finetuning", "flyp"),
    "contrastive_l2_sp": Arm("L2-SP", "contrastive_l2_sp", "l2_sp", L2_STRENGTHS),
    "sd_static": Arm("static teacher", "sd_static", "sd_weight", STRENGTHS),
    "sd_ema": Arm("EMA teacher", "sd_ema", "sd_weight", STRENGTHS),
    "tracer": Arm("TRACER", "tracer", "sd_weight", STRENGTHS),
    "tracer-fd": Arm("TRACER, weight of FD", "tracer", "fd", FD_WEIGHTS),
}
LABELS = {"zero_shot": "start", "flyp": "", "contrastive_l2_sp": "", "wise_ft": "WiSE-FT"} | {
    k: arm.label for k, arm in ARMS.items()
}
COLUMNS: list[dict[str, Any]] = [
    {"key": "in_style", "label": "Finetuned style", "unit": "%", "better": "higher"},
    {"key": "ood", "label": "Other styles", "unit": "%", "better": "higher"},
    {"key": "retention", "label": "Names kept", "unit": "%", "better": "higher"},
    {"key": "ece_id", "label": "ECE finetuned style", "unit": "%", "better": "lower"},
    {"key": "ece_ood", "label": "ECE other styles", "unit": "%", "better": "lower"},
    {"key": "retention_aligned", "label": "Aligned names", "unit": "%", "better": "higher"},
    {"key": "retention_new", "label": "New names", "unit": "%", "better": "higher"},
    {"key": "teacher_in_style", "label": "Teacher, finetuned style", "unit": "%", "better": "higher"},
    {"key": "teacher_ood", "label": "Teacher, other styles", "unit": "%", "better": "higher"},
    {"key": "teacher_retention", "label": "Teacher, names kept", "unit": "%", "better": "higher"},
    {"key": "pretrained_share", "label": "Pretrained share in teacher", "unit": "%", "better": None},
]


def run(
    out: Path,
    *,
    data: Path,
    style: str | None = None,
    model: str = "mini:lite0-minilm@96",
    steps: int = 150,
    batch_size: int = 32,
    lr: float = 1e-4,
    seeds: int = 1,
    workers: int = 2,
    progress: Progress | None = None,
    command: str = "tracerft study shift",
) -> Path:
    """Run the study and write ``study.json``, figures and ``report.html``.

    Args:
        out: the study's folder; finished runs in it are not run again.
        data: emoji in styles, or ``domain/class/*`` images.
        style: the domain to finetune in; by default the first by name.
        model: start for a folder of domains; emoji have their own aligned start.
        steps: T.
        batch_size: pairs in a batch.
        lr: peak learning rate.
        seeds: number of seeds for the selected strengths; each has its own start.
        workers: processes.
        progress: told about every finished run.
        command: how the study was called, for the report.

    Returns:
        Path of the report.
    """
    started = time.perf_counter()
    here = world(out, data=data, style=style, model=model, steps=steps, batch_size=batch_size, lr=lr, seeds=seeds)
    first = {(k, s, 0): _config(here, k, s, 0) for k, arm in ARMS.items() for s in arm.strengths}
    results = _results(dict(zip(first, run_all(list(first.values()), workers, progress, parts), strict=True)))
    chosen = select(results)
    later = {(k, chosen[k], seed): _config(here, k, chosen[k], seed) for k in ARMS for seed in range(1, seeds)}
    if later:
        results |= _results(dict(zip(later, run_all(list(later.values()), workers, progress, parts), strict=True)))
    rows = rows_of(results, COLUMNS, LABELS, _shares(steps), chosen)
    claims = _claims(rows)
    study = {
        "study": "shift",
        "title": here.title,
        "headline": _headline(rows, claims, Path(here.base.data).name, len(domains(data)), seeds),
        "settings": here.settings,
        "columns": COLUMNS,
        "rows": rows,
        "claims": claims,
        "figures": _figures(out, rows),
    }
    return write_study(out, study, command, started)


def world(
    out: Path,
    *,
    data: Path,
    style: str | None = None,
    model: str = "mini:lite0-minilm@96",
    steps: int = 150,
    batch_size: int = 32,
    lr: float = 1e-4,
    seeds: int = 1,
) -> World:
    """The setting of the study, for this and other comparisons; see `run` for the arguments."""
    at_least_one("seeds", seeds)
    names = domains(data)
    style = style or names[0]
    one_of("style", style, tuple(names))
    starts = _starts(out, data, model, seeds)
    train = TrainConfig(steps=steps, batch_size=batch_size, lr=lr, device="cpu", checkpoint_every=0)
    settings = {
        "finetuned style": style,
        "steps": steps,
        "batch size": batch_size,
        "lr": lr,
        "seeds": seeds,
        "start": "mini, aligned on emoji names and ImageNet classes, one a seed" if is_emoji(data) else model,
        "selection": "highest mean accuracy on held-out training things (classes and names), seed 0",
        "EMA half-life": f"{EMA_HALF_LIFE} T",
    }
    return World(
        title=f"Shift study: finetuned on {style}, tested in every style",
        base=FinetuneConfig(model=starts[0], data=str(data / style), out=str(out), train=train),
        starts=starts,
        columns=COLUMNS,
        axes=("in_style", "ood"),
        measures=lambda results, start: measures(results),
        settings=settings,
        read=parts,
        without={"arf": "there is no pool that holds none of the test images"},
    )


def _starts(out: Path, data: Path, model: str, seeds: int) -> list[str]:
    """The start of each seed: aligned on emoji names, or the given model for other data."""
    if not is_emoji(data):
        return [model] * seeds
    folders = [out / "starts" / f"seed{seed}" for seed in range(seeds)]
    for seed, folder in enumerate(folders):
        if not (folder / ALIGNED).is_file():
            loaded, _, aligned = shift_start(data, seed=seed)
            save_model(loaded.model, folder)
            (folder / ALIGNED).write_text(json.dumps(aligned.tolist()))
    return [str(folder) for folder in folders]


def _config(here: World, key: str, strength: float, seed: int) -> FinetuneConfig:
    arm = ARMS[key]
    option = None if arm.option is None else (f"loss.{arm.option}", strength)
    return here.config(key, arm.method, option, seed, **arm.loss)


def measures(results: Mapping[str, Any]) -> dict[str, float]:
    """What the study reads from the splits of one model, in percent."""
    others = [v for k, v in results.items() if k != "id" and not k.startswith(("names-", "select-"))]
    names = [v for k, v in results.items() if k.startswith("names-")]
    found = {
        "in_style": results["id"]["top1"],
        "ood": mean(v["top1"] for v in others),
        "ece_id": results["id"]["ece_15"],
        "ece_ood": mean(v["ece_15"] for v in others),
    }
    if names:
        found["retention"] = mean(v["top1"] for v in names)
        for group in ("aligned", "new"):
            if of_group := [v["groups"][group]["top1"] for v in names if group in v["groups"]]:
                found[f"retention_{group}"] = mean(of_group)
    chosen = [results[s]["top1"] for s in ("select-id", "select-names") if s in results]
    return {k: 100.0 * v for k, v in found.items()} | {"selection": 100.0 * mean(chosen)}


def _results(runs: Mapping[Key, Run]) -> dict[Key, dict[str, float]]:
    """Measures of every run, of the starts, and of WiSE-FT on the path of direct finetuning."""
    found: dict[Key, dict[str, float]] = {}
    for key, one in runs.items():
        found[key] = measures(one.results["student"])
        if "teacher" in one.results:
            teacher = measures(one.results["teacher"])
            found[key] |= {f"teacher_{m}": teacher[m] for m in ("in_style", "ood", "retention") if m in teacher}
        if key[0] == "flyp":
            found["zero_shot", 0.0, key[2]] = measures(one.results["pretrained"])
            for name, results in path_results(one, ALPHAS, parts).items():
                found["wise_ft", float(name.rpartition("-")[2]), key[2]] = measures(results)
    return found


def _shares(steps: int) -> dict[str, float]:
    clock = Clock(steps)
    arcsine = 100 * final_pretrained_weight(beta_kernel(0.5, 0.5), clock)
    ema = 100 * final_pretrained_weight(exponential_kernel(momentum(steps)), clock)
    return {"sd_static": 100.0, "sd_ema": ema, "tracer": arcsine, "tracer-fd": arcsine}


# First does better than second on a measure; what the paper says, in its own setting, of such pairs.
PAIRS = (
    (
        "tracer-learns",
        "TRACER gains as much on the finetuned style as direct finetuning",
        "tracer",
        "flyp",
        "in_style",
        1.5,
    ),
    ("tracer-shift", "TRACER is better under shift than direct finetuning", "tracer", "flyp", "ood", 0.0),
    ("tracer-retains", "TRACER keeps more names than direct finetuning", "tracer", "flyp", "retention", 0.0),
    ("tracer-static", "TRACER is better under shift than the static teacher", "tracer", "sd_static", "ood", 0.0),
    ("tracer-ema", "TRACER is better under shift than the EMA teacher", "tracer", "sd_ema", "ood", 0.0),
    ("tracer-wise", "TRACER is better under shift than WiSE-FT", "tracer", "wise_ft", "ood", 0.0),
    ("tracer-l2", "TRACER is better under shift than L2-SP", "tracer", "contrastive_l2_sp", "ood", 0.0),
    (
        "tracer-ece",
        "TRACER is better calibrated under shift than direct finetuning",
        "flyp",
        "tracer",
        "ece_ood",
        0.0,
    ),
)


def _claims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    at = {row["id"]: row for row in rows if row["selected"]}
    found = []
    if at["zero_shot"]["retention"] is not None:
        lost = at["zero_shot"]["retention"]["mean"] - at["flyp"]["retention"]["mean"]
        cell, text = {"mean": lost}, "direct finetuning forgets: names kept fall"
        found.append(figure_claim("direct-forgets", text, cell, ">", 30.0, "points lost; the bar is 30"))
    for name, text, better, worse, measure, slack in PAIRS:
        if at[better][measure] is not None and at[worse][measure] is not None:
            found.append(paired_claim(name, text, at[better], at[worse], measure, slack))
    return found


def _headline(
    rows: list[dict[str, Any]], claims: list[dict[str, Any]], style: str, number: int, seeds: int
) -> list[str]:
    at = {row["id"]: row for row in rows if row["selected"]}

    def says(key: str) -> str:
        row = at[key]
        kept = "" if row["retention"] is None else f", {row['retention']['mean']:.1f} % of the names kept"
        inside, outside = row["in_style"]["mean"], row["ood"]["mean"]
        return f"{row['method']}: {inside:.1f} % in {style}, {outside:.1f} % in the others{kept}"

    held = [c for c in claims if c["holds"]]
    failed = [c["id"] for c in claims if c["holds"] is False]
    return [
        f"{len(at) - 1} ways to finetune a small dual encoder on {style} were compared in {number} styles, "
        f"with {seeds} seed{'s' if seeds > 1 else ''} at the selected strengths.",
        "; ".join(says(key) for key in ("zero_shot", "flyp", "tracer")) + ".",
        f"Of {len(claims)} claims {len(held)} held and {len(failed)} did not"
        + (f" ({', '.join(failed)})" if failed else "")
        + f"; {len(claims) - len(held) - len(failed)} stayed open.",
    ]


def _figures(out: Path, rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    chosen = [row for row in rows if row["selected"]]
    varied = [row for row in rows if row["id"] != "zero_shot"]
    start = next(row for row in chosen if row["id"] == "zero_shot")
    line = "A line is a method over its strengths, a star its selected one; up and to the right is better."
    style, others, kept = "finetuned style, accuracy in %", "other styles, accuracy in %", "names kept, in %"
    both = [("in_style", "finetuned style"), ("ood", "other styles"), ("retention", "names kept")]
    measured = [(key, name) for key, name in both if start[key] is not None]
    drawn = [
        (
            "accuracy",
            "Gain and loss",
            grouped_bars(chosen, measured, x_label="accuracy in %"),
            "At selected strengths.",
        ),
        (
            "shift",
            "Other styles against the finetuned one",
            front(varied, "in_style", "ood", reference=start, x_label=style, y_label=others),
            line,
        ),
    ]
    if start["retention"] is not None:
        kept_front = front(varied, "in_style", "retention", reference=start, x_label=style, y_label=kept)
        drawn.append(("retention", "Names kept against the finetuned style", kept_front, line))
    drawn.append(
        ("ece", "Calibration error in the other styles", bars(chosen, "ece_ood", x_label="ECE in %"), "15 bins.")
    )
    return write_figures(out, drawn)
