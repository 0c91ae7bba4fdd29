"""Rows of a comparison that no run of its own stands for: soups, Model Stock, TPGM and DaWin, from runs of ce_ft.

A seed has one start, so the members of a soup are runs from it that differ in data order and learning rate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tracerft.api import Run
from tracerft.config import FinetuneConfig, read_config
from tracerft.evaluation.dawin import dawin_results
from tracerft.evaluation.suite import evaluate_models
from tracerft.merging import merge
from tracerft.models.head import match_head
from tracerft.models.weights import load_model
from tracerft.studies.results import Key
from tracerft.studies.runner import Progress, finished_runs, kept, run_all
from tracerft.studies.worlds import World

BASE = "ce_ft"
SOUPS = ("uniform_soup", "greedy_soup", "model_stock")
KINDS = (*SOUPS, "tpgm", "dawin")
MEMBERS = (
    (1.0, 1000),
    (1 / 3, 2000),
)  # of a soup beside the run itself: factor of the learning rate, shift of the seed


def merged_results(
    out: Path,
    world: World,
    runs: Mapping[Key, Run],
    seeds: int,
    methods: Sequence[str],
    workers: int,
    only_finished: bool,
    progress: Progress | None,
) -> dict[Key, dict[str, float]]:
    """Percentages of each kind of merge and seed; the arguments are those of `compare.run`."""
    wanted = [kind for kind in KINDS if not methods or kind in methods]
    bases = {seed: runs[BASE, 0.0, seed] for seed in range(seeds) if (BASE, 0.0, seed) in runs}
    configs = {}
    if any(kind in SOUPS for kind in wanted):
        configs = {(seed, i): _member(base, i) for seed, base in bases.items() for i in range(len(MEMBERS))}
    if only_finished:
        members = finished_runs(configs)
    else:
        members = dict(zip(configs, run_all(list(configs.values()), workers, progress, world.read), strict=True))
    found: dict[Key, dict[str, float]] = {}
    for seed, base in bases.items():
        others = [members[seed, i].folder for i in range(len(MEMBERS)) if (seed, i) in members]
        for kind in wanted:
            if kind in SOUPS and len(others) < len(MEMBERS):
                continue
            used = {"model_stock": 1, "tpgm": 0, "dawin": 0}.get(kind, len(others))  # beside the run itself
            folders = [base.folder, *others[:used]]
            results = kept(out / "merged" / f"{kind}-seed{seed}.json", Make(kind, world, folders))
            found[kind, 0.0, seed] = world.measures(results, base.results["pretrained"]) | {"cost": 0.0}
    return found


def _member(base: Run, number: int) -> FinetuneConfig:
    """A run from the same start in another order and perhaps at another rate."""
    config = read_config(base.folder / "config.yaml")
    factor, shift = MEMBERS[number]
    train = replace(config.train, lr=config.train.lr * factor, seed=config.train.seed + shift)
    return replace(config, out=f"{config.out}-member{number + 1}", train=train)


class Make:
    """Merges and evaluates, when called."""

    def __init__(self, kind: str, world: World, folders: Sequence[Path]) -> None:
        self.kind, self.world, self.folders = kind, world, folders

    def __call__(self) -> dict[str, Any]:
        """Read the models and images, and evaluate."""
        config = read_config(self.folders[0] / "config.yaml")
        start = load_model(config.model, seed=config.train.seed)
        suite = self.world.read(config, start).suite
        if self.kind == "dawin":
            end = load_model(self.folders[0] / "student").model
            match_head(start.model, end)
            return dawin_results(start.model, end, suite.splits(), start.tokenize)
        merged = merge(self.kind, self.folders, suite=suite)
        return evaluate_models({self.kind: merged.model}, suite.splits(), start.tokenize)[self.kind]
