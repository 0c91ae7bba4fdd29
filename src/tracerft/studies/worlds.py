"""Where methods are compared: a start a seed, data, suite, length, and what is measured, the same for all of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

from tracerft.api import ReadParts
from tracerft.config import FinetuneConfig, LossConfig, TeacherConfig
from tracerft.methods import METHODS
from tracerft.sources import read_parts

EMA_HALF_LIFE = 0.14  # of T: an average that forgets as fast whatever the length of the run


@dataclass(frozen=True)
class World:
    """One setting for all methods.

    Args:
        title: for the report.
        base: a configuration with data and training; model, method, seed and folder are set by `config`.
        starts: the model of each seed.
        columns: of the table, by key of what ``measures`` gives.
        axes: keys of the task that is finetuned and of what may be forgotten, for figures and claims.
        measures: metrics by split, of a model and of its start, to percentages; ``selection`` among them.
        settings: what a reader should know.
        read: reads data and suite of a configuration.
        without: methods that cannot be run here, and why; run nevertheless where they are asked for by name.
        targets: what equal captions in a batch count as, see `LossConfig`.
    """

    title: str
    base: FinetuneConfig
    starts: Sequence[str]
    columns: Sequence[Mapping[str, Any]]
    axes: tuple[str, str]
    measures: Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, float]]
    settings: Mapping[str, Any]
    read: ReadParts = read_parts
    without: Mapping[str, str] = field(default_factory=dict)
    targets: str = "multi_positive"

    def config(
        self, key: str, method: str, strength: tuple[str, float] | None, seed: int, **loss: Any
    ) -> FinetuneConfig:
        """The run of a method.

        Args:
            key: names its folder, with strength and seed.
            method: of the METHODS table.
            strength: option and value, such as ``("loss.sd_weight", 0.9)``.
            seed: picks the start, too.
            loss: other options of that group.
        """
        groups: dict[str, dict[str, Any]] = {"loss": dict(loss), "teacher": {}}
        if strength is not None:
            group, _, name = strength[0].partition(".")
            groups[group][name] = strength[1]
        if "teacher.momentum" in METHODS[method].uses:
            groups["teacher"]["momentum"] = momentum(self.base.train.steps or 1)
        value = 0.0 if strength is None else strength[1]
        return replace(
            self.base,
            model=self.starts[seed],
            out=str(Path(self.base.out) / "runs" / f"{key}-{value:g}-seed{seed}"),
            method=method,
            loss=LossConfig(targets=self.targets, **groups["loss"]),
            teacher=TeacherConfig(**groups["teacher"]),
            train=replace(self.base.train, seed=seed),
        )


def momentum(steps: int, half_life: float = EMA_HALF_LIFE) -> float:
    """Momentum whose average forgets half in ``half_life`` of the run, whatever its length."""
    return float(0.5 ** (1.0 / (half_life * steps)))


NO_ANCHORS = "needs captions beside the labels, and a pool"
FOLDER_COLUMNS: list[dict[str, Any]] = [
    {"key": "task", "label": "Finetuned task", "unit": "%", "better": "higher"},
    {"key": "shifts", "label": "Shifts", "unit": "%", "better": "higher"},
    {"key": "ece_task", "label": "ECE task", "unit": "%", "better": "lower"},
    {"key": "ece_shifts", "label": "ECE shifts", "unit": "%", "better": "lower"},
]


def folder_world(base: FinetuneConfig, seeds: int) -> World:
    """Own data: one start for all seeds, the suite of ``base``."""
    settings = {"start": base.model, "data": base.data, "suite": base.suite, **_length(base), "seeds": seeds}
    return World(
        title=f"Methods compared on {Path(base.data).name}",
        base=base,
        starts=[base.model] * seeds,
        columns=FOLDER_COLUMNS,
        axes=("task", "shifts"),
        measures=folder_measures,
        settings=settings,
        without={"arf": NO_ANCHORS, "arf_lite": NO_ANCHORS},
    )


def _length(base: FinetuneConfig) -> dict[str, Any]:
    return {"steps": base.train.steps, "batch size": base.train.batch_size, "lr": base.train.lr}


def folder_measures(results: Mapping[str, Any], start: Mapping[str, Any]) -> dict[str, float]:
    """The task's own metric, its mean over shifts, and calibration, in percent; recall where nothing is labelled."""
    shifts = [v for k, v in results.items() if k != "id" and not k.startswith("select-")]
    found = {"task": main_metric(results["id"])}
    if shifts:
        found["shifts"] = mean(main_metric(v) for v in shifts)
    for key, chosen in (("ece_task", [results["id"]]), ("ece_shifts", shifts)):
        if known := [v["ece_15"] for v in chosen if "ece_15" in v]:
            found[key] = mean(known)
    if "select-id" in results:
        found["selection"] = main_metric(results["select-id"])
    return {k: 100.0 * v for k, v in found.items()}


def main_metric(metrics: Mapping[str, Any]) -> float:
    """What a split is judged by."""
    if "top1" not in metrics:
        return float(metrics["image_to_text_r1"])
    return float(metrics[metrics.get("metric", "top1")])
