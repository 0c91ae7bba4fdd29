"""Runs of a world that differ from a method's own run in an option or two; equal runs are made once.

A run that differs in nothing is that of `tracerft study compare` and shares its folder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from tracerft.api import Run
from tracerft.config import FinetuneConfig, LossConfig
from tracerft.errors import ArgumentError
from tracerft.methods import METHODS
from tracerft.studies.runner import Progress, run_all
from tracerft.studies.worlds import World

K = TypeVar("K")


def variant(
    world: World,
    method: str,
    seed: int,
    key: str = "",
    *,
    strength: float | None = None,
    loss: Mapping[str, Any] | None = None,
    teacher: Mapping[str, Any] | None = None,
    probe_every: int | None = None,
) -> FinetuneConfig:
    """The configuration of one run.

    Args:
        world: start, data, length.
        method: of the METHODS table.
        seed: of start and data order.
        key: names the folder where ``loss`` or ``teacher`` change something.
        strength: of the method; the published value by default.
        loss: options of that group.
        teacher: options of that group.
        probe_every: steps between measurements of the teacher-student gap; the world's own by default.
    """
    option = METHODS[method].strength
    if strength is None and option:
        strength = getattr(LossConfig(), option.partition(".")[2])
    plain = world.config(method, method, (option, strength or 0.0) if option else None, seed)
    changed = replace(
        plain, loss=replace(plain.loss, **(loss or {})), teacher=replace(plain.teacher, **(teacher or {}))
    )
    if changed != plain:
        changed = replace(changed, out=str(Path(plain.out).with_name(f"{key}-seed{seed}")))
    if probe_every is None or probe_every == plain.train.probe_every:
        return changed
    out = Path(changed.out)
    probed = replace(plain.train, probe_every=probe_every)
    return replace(changed, train=probed, out=str(out.with_name(f"probed-{probe_every}-{out.name}")))


def finish_all(
    world: World, configs: Mapping[K, FinetuneConfig], workers: int, progress: Progress | None
) -> dict[K, Run]:
    """The run of each configuration; those of one folder are one run."""
    distinct = {config.out: config for config in configs.values()}
    runs = dict(zip(distinct, run_all(list(distinct.values()), workers, progress, world.read), strict=True))
    return {key: runs[config.out] for key, config in configs.items()}


def length(world: World) -> int:
    """T, optimiser steps of each run of a world.

    Raises:
        ArgumentError: if the world counts epochs.
    """
    steps = world.base.train.steps
    if steps is None:
        raise ArgumentError("`train.steps` must be given for this study; got epochs; count the steps")
    return steps


def seeds_said(seeds: int) -> str:
    """``1 seed`` or ``3 seeds``."""
    return f"{seeds} seed{'s' if seeds > 1 else ''}"


def curve_of(label: str, xs: Sequence[float], cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A line for `tracerft.reports.figures.curves`: means, with a band of one standard deviation over seeds."""
    means = [cell["mean"] for cell in cells]
    line: dict[str, Any] = {"label": label, "x": list(xs), "y": means}
    if any(cell["std"] is not None for cell in cells):
        line["low"] = [cell["mean"] - (cell["std"] or 0.0) for cell in cells]
        line["high"] = [cell["mean"] + (cell["std"] or 0.0) for cell in cells]
    return line
