"""The toy study (Section 5.1, Figure 3): which methods learn colour without forgetting digits?

Every method gets the same pretrained model, data order, steps, optimiser, evaluation and number of
strengths; strengths are chosen on held-out training digits by one rule.
"""

import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tracerft.api import Run
from tracerft.averaging import Clock, beta_kernel, exponential_kernel, final_pretrained_weight
from tracerft.config import DigitsConfig, FinetuneConfig, LossConfig, TeacherConfig, TrainConfig
from tracerft.data.digits import download_digits
from tracerft.errors import DataError, one_of
from tracerft.sources import read_parts
from tracerft.studies.results import Key, rows_of
from tracerft.studies.runner import Progress, at_least_one, evaluate_path, run_all, write_study
from tracerft.studies.toy_results import COLUMNS, claims_of, figures, headline_of, measures
from tracerft.studies.worlds import NO_ANCHORS, World

SELECTION = "highest mean of coloured and original accuracy on held-out training digits, averaged over seeds"


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything; digits, steps and strengths."""

    pretrain: tuple[int, int] | None  # digits and epochs; None takes the packaged model
    finetune_count: int
    hold_out: float
    steps: int
    lr: float
    sd_weights: tuple[float, ...]
    l2_weights: tuple[float, ...]
    arms: tuple[str, ...]


@dataclass(frozen=True)
class Arm:
    """A method of the study: what it is called, how it is told apart, which strength it has."""

    key: str
    label: str
    method: str
    strength: str | None  # the option that is varied
    loss: dict[str, float] = field(default_factory=dict)
    teacher: dict[str, Any] = field(default_factory=dict)
    half_life: float | None = None  # of an EMA teacher, as a share of T


FD_ONLY = {"crd": 0.0, "icl": 0.0, "cross_kd": 0.0}
_TEACHERS: tuple[tuple[str, str, str, dict[str, Any], float | None], ...] = (
    ("static", "static teacher", "sd_static", {}, None),
    ("ema-slow", "EMA teacher, slow", "sd_ema", {}, 0.5),
    ("ema-fast", "EMA teacher, fast", "sd_ema", {}, 0.1),
    ("wma", "WMA teacher, Beta(.5, .5)", "tracer", {}, None),
    ("wma-uniform", "WMA teacher, Beta(1, 1)", "tracer", {"a": 1.0, "b": 1.0}, None),
)
ARMS: dict[str, Arm] = {
    arm.key: arm
    for arm in (
        Arm("direct", "direct finetuning", "flyp", None),
        Arm("l2-sp", "L2-SP", "contrastive_l2_sp", "l2_sp"),
        *(Arm(f"{k}-fd", f"{label}, FD only", m, "sd_weight", FD_ONLY, t, h) for k, label, m, t, h in _TEACHERS),
        *(Arm(f"{k}-all", f"{label}, all four", m, "sd_weight", {}, t, h) for k, label, m, t, h in _TEACHERS),
    )
}
LABELS = {"pretrained": "pretrained", "direct": "", "l2-sp": "", "wise-ft": "WiSE-FT"} | {
    key: arm.label for key, arm in ARMS.items()
}
LABELS["wma-all"] = "TRACER: WMA teacher, all four"

_STRENGTHS = (0.3, 0.9, 3.0, 10.0, 30.0)
SIZES: dict[str, Size] = {
    "quick": Size(
        pretrain=None, finetune_count=4000, hold_out=0.1, steps=168, lr=1e-3, sd_weights=(0.9, 3.0),
        l2_weights=(0.1, 1.0), arms=("direct", "l2-sp", "static-all", "ema-fast-all", "wma-fd", "wma-all"),
    ),
    "standard": Size(
        pretrain=(20_000, 8), finetune_count=11_000, hold_out=1 / 11, steps=312, lr=1e-3, sd_weights=_STRENGTHS,
        l2_weights=(0.03, 0.1, 0.3, 1.0, 3.0), arms=tuple(ARMS),
    ),
    "full": Size(
        pretrain=(45_000, 10), finetune_count=15_000, hold_out=0.1, steps=2100, lr=3e-4, sd_weights=_STRENGTHS,
        l2_weights=(0.03, 0.1, 0.3, 1.0, 3.0), arms=tuple(ARMS),
    ),
}  # fmt: skip


def run(
    out: Path,
    *,
    size: str = "quick",
    data: Path | None = None,
    seeds: int = 1,
    workers: int = 2,
    download: bool = False,
    progress: Progress | None = None,
    command: str = "tracerft study toy",
) -> Path:
    """Run the study and write ``study.json``, figures and ``report.html``.

    Args:
        out: the study's folder; finished runs in it are not run again.
        size: ``quick``, ``standard`` or ``full``.
        data: folder with MNIST IDX files, ``None`` for the embedded digits.
        seeds: number of seeds; each has its own pretraining (but in ``quick``), data order and colours.
        workers: processes.
        download: fetch MNIST into ``data`` first.
        progress: told about every finished run.
        command: how the study was called, for the report.

    Returns:
        Path of the report.
    """
    one_of("size", size, tuple(SIZES))
    at_least_one("seeds", seeds)
    started, chosen = time.perf_counter(), SIZES[size]
    if download:
        data = download_digits(data or out / "mnist")
    if chosen.pretrain and data is None:
        raise DataError(f"size {size} needs all of MNIST; give --data DIR with its IDX files, or add --download")
    source = "digits" if data is None else str(data)
    starts = _pretrain(out, chosen, source, seeds, workers, progress)
    configs = {
        (arm, strength, seed): _config(out, chosen, ARMS[arm], strength, source, starts[seed], seed)
        for arm in chosen.arms
        for strength in _strengths(ARMS[arm], chosen)
        for seed in range(seeds)
    }
    runs = dict(zip(configs, run_all(list(configs.values()), workers, progress), strict=True))
    rows = rows_of(_results(runs, seeds), COLUMNS, LABELS, _shares(chosen))
    claims = claims_of(rows)
    study = {
        "study": "toy",
        "title": "Toy study: digits, then coloured digits",
        "headline": headline_of(rows, claims, "MNIST" if data else "5,000 embedded MNIST digits", seeds),
        "settings": _settings(size, chosen, seeds, data),
        "columns": COLUMNS,
        "rows": rows,
        "claims": claims,
        "figures": figures(out, rows, {key: run.folder for key, run in runs.items()}, LABELS),
    }
    return write_study(out, study, command, started)


def _pretrain(out: Path, size: Size, data: str, seeds: int, workers: int, progress: Progress | None) -> list[str]:
    """The model each seed starts from: the packaged one, or a run of our own."""
    if size.pretrain is None:
        return ["tiny"] * seeds
    count, epochs = size.pretrain
    configs = [
        FinetuneConfig(
            model="tiny:random",
            data=data,
            out=str(out / "pretrained" / f"seed{seed}"),
            method="flyp",
            train=TrainConfig(
                epochs=epochs, batch_size=64, lr=1e-3, seed=seed, device="cpu", log_every=50, checkpoint_every=0
            ),
            loss=LossConfig(targets="multi_positive"),
            hold_out=0.0,
            digits=DigitsConfig(task="grey", count=count),
        )
        for seed in range(seeds)
    ]
    return [str(run.folder) for run in run_all(configs, workers, progress)]


def world(
    out: Path,
    *,
    size: str = "quick",
    data: Path | None = None,
    seeds: int = 1,
    workers: int = 2,
    progress: Progress | None = None,
) -> World:
    """The setting of the study, for other comparisons; see `run` for the arguments."""
    one_of("size", size, tuple(SIZES))
    chosen = SIZES[size]
    if chosen.pretrain and data is None:
        raise DataError(f"size {size} needs all of MNIST; give --data DIR with its IDX files")
    source = "digits" if data is None else str(data)
    starts = _pretrain(out, chosen, source, seeds, workers, progress)
    base = _config(out, chosen, ARMS["direct"], 0.0, source, starts[0], 0)
    return World(
        title="Toy study: digits, then coloured digits",
        base=replace(base, out=str(out)),
        starts=starts,
        columns=[c for c in COLUMNS if not str(c["key"]).startswith("teacher_")],
        axes=("coloured", "original"),
        measures=measures,
        settings=_settings(size, chosen, seeds, data),
        without={"arf": NO_ANCHORS, "arf_lite": NO_ANCHORS},
    )


def _strengths(arm: Arm, size: Size) -> tuple[float, ...]:
    if arm.strength is None:
        return (0.0,)
    return size.l2_weights if arm.strength == "l2_sp" else size.sd_weights


def _config(out: Path, size: Size, arm: Arm, strength: float, data: str, start: str, seed: int) -> FinetuneConfig:
    loss = LossConfig(targets="multi_positive", **arm.loss)  # type: ignore[arg-type]
    if arm.strength is not None:
        loss = replace(loss, **{arm.strength: strength})  # type: ignore[arg-type]
    teacher = TeacherConfig(**arm.teacher)
    if arm.half_life is not None:
        teacher = replace(teacher, momentum=_momentum(arm.half_life, size.steps))
    used = 0 if size.pretrain is None else size.pretrain[0]
    return FinetuneConfig(
        model=start,
        data=data,
        out=str(out / "runs" / f"{arm.key}-{strength:g}-seed{seed}"),
        method=arm.method,
        freeze="text",
        train=TrainConfig(
            steps=size.steps,
            batch_size=64,
            lr=size.lr,
            seed=seed,
            device="cpu",
            checkpoint_every=0,
            probe_every=max(1, size.steps // 24),
        ),
        teacher=teacher,
        loss=loss,
        hold_out=size.hold_out,
        digits=DigitsConfig(start=used, count=size.finetune_count),
    )


def _momentum(half_life: float, steps: int) -> float:
    """Momentum whose average forgets half in ``half_life`` of the run, whatever T is."""
    return float(0.5 ** (1.0 / (half_life * steps)))


def _results(runs: dict[Key, Run], seeds: int) -> dict[Key, dict[str, float]]:
    """Measures of every run, of the starts, and of WiSE-FT at alpha 0.1 ... 0.9 (no training of its own)."""
    found: dict[Key, dict[str, float]] = {}
    for key, run in runs.items():
        start = run.results["pretrained"]
        found[key] = measures(run.results["student"], start, run.results.get("teacher"))
    for seed in range(seeds):
        direct = runs["direct", 0.0, seed]
        start = direct.results["pretrained"]
        found["pretrained", 0.0, seed] = measures(start, start)
        for name, results in evaluate_path(direct, 11, read_parts).items():
            found["wise-ft", float(name.rpartition("-")[2]), seed] = measures(results, start)
    return found


def _shares(size: Size) -> dict[str, float]:
    """Share of theta_0 in the final teacher of each arm, in percent."""
    clock, shares = Clock(size.steps), {}
    for key in size.arms:
        arm = ARMS[key]
        if arm.method == "tracer":
            kernel = beta_kernel(arm.teacher.get("a", 0.5), arm.teacher.get("b", 0.5))
            shares[key] = 100 * final_pretrained_weight(kernel, clock)
        elif arm.half_life is not None:
            shares[key] = 100 * final_pretrained_weight(exponential_kernel(_momentum(arm.half_life, size.steps)), clock)
        elif arm.method == "sd_static":
            shares[key] = 100.0
    return shares


def _settings(name: str, size: Size, seeds: int, data: Path | None) -> dict[str, Any]:
    start = "packaged model (docs/results/toy/README.md)"
    if size.pretrain:
        start = f"a run of this study: {size.pretrain[0]} grey digits, {size.pretrain[1]} epochs, one a seed"
    return {
        "size": name,
        "digits": "MNIST" if data else "5,000 embedded",
        "pretrained model": start,
        "seeds": seeds,
        **{k.replace("_", " "): v for k, v in asdict(size).items() if k in ("steps", "lr", "finetune_count")},
        "batch size": 64,
        "text tower and logit scale": "frozen",
        "targets": "multi_positive",
        "selection": SELECTION,
    }
