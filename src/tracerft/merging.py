"""Finished runs to one model: soups, Model Stock, and projection by radii that are learned on held-out images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from tracerft.api import run_config
from tracerft.averaging import greedy_soup, interpolate, model_stock, tpgm_project, tpgm_radii, uniform_soup
from tracerft.config import FinetuneConfig, read_config
from tracerft.data.suite import Split, Suite
from tracerft.errors import ArgumentError, DataError, RunFolderError, one_of
from tracerft.evaluation.suite import Predictor, Tokenize
from tracerft.guarding import right
from tracerft.losses import cross_entropy
from tracerft.models.encoder import LoadedModel
from tracerft.models.head import class_head, match_head
from tracerft.models.weights import load_model, save_model
from tracerft.models.zero_shot import zero_shot_head

KINDS = ("wise", "uniform_soup", "greedy_soup", "model_stock", "tpgm")
LEAST = {"wise": 1, "uniform_soup": 2, "greedy_soup": 2, "model_stock": 2, "tpgm": 1}
MOST = {"wise": 1, "tpgm": 1}
BATCH = 32  # held-out images a step, for radii


@dataclass(frozen=True)
class Merged:
    """A merged model and how it came about.

    Args:
        model: on the CPU, with a class head where the runs have one.
        note: one sentence.
    """

    model: nn.Module
    note: str


def merge(kind: str, runs: Sequence[Path], *, alpha: float = 0.5, suite: Suite | None = None) -> Merged:
    """Merge the students of finished runs that share one start.

    Args:
        kind: ``wise`` (one run and its start), ``uniform_soup``, ``greedy_soup``, ``model_stock`` (two runs or more
            and their start) or ``tpgm`` (one run and its start).
        runs: folders.
        alpha: of ``wise``, share of the finetuned weights in [0, 1].
        suite: of the first run; its ``selection["id"]`` is what ``greedy_soup`` and ``tpgm`` choose on.

    Raises:
        ArgumentError: if there are too few or too many runs, or nothing was held out.
        RunFolderError: if a run is not finished, or the runs started from different models.
    """
    one_of("kind", kind, KINDS)
    if not LEAST[kind] <= len(runs) <= MOST.get(kind, len(runs)):
        wanted = f"{LEAST[kind]} run" if kind in MOST else f"at least {LEAST[kind]} runs"
        raise ArgumentError(f"`runs`: {kind} takes {wanted}; got {len(runs)}")
    start, students = _read(runs)
    if kind == "wise":
        return Merged(interpolate(start.model, students[0], alpha), f"{alpha:g} of the finetuned weights")
    if kind == "uniform_soup":
        return Merged(uniform_soup(students), f"the mean of {len(students)} runs")
    if kind == "model_stock":
        merged, ratios = model_stock(start.model, students)
        mean = sum(ratios.values()) / max(1, len(ratios))
        return Merged(merged, f"ratio of the runs' mean {mean:.2f} on average over tensors, the rest is pretrained")
    held_out = _held_out(kind, suite)
    if kind == "greedy_soup":
        soup, kept = greedy_soup(students, lambda model: _accuracy(model, start.tokenize, held_out))
        return Merged(soup, f"runs {', '.join(str(i + 1) for i in kept)} of {len(students)} were kept")
    return _tpgm(start, students[0], held_out)


def periodic_model_stock(config: FinetuneConfig, rounds: int) -> Path:
    """Model Stock with merges along the way: each round is two runs in other orders from the last merge.

    A round has its own warm-up and cosine and a fresh optimiser; what the paper's does with the optimiser at a merge is
    not known. Rounds that are finished are not run again.

    Args:
        config: of the whole; ``train.steps`` are shared out over the rounds, ``out`` is the folder of all of them.
        rounds: at least 1; 1 is Model Stock after training.

    Returns:
        The folder of the last merge, a model.

    Raises:
        ArgumentError: if there are fewer steps than rounds.
    """
    total = config.train.steps or 0
    if rounds < 1 or total < rounds:
        raise ArgumentError(f"`rounds` must be at least 1 and at most train.steps; got {rounds} and {total} steps")
    current, out = config.model, Path(config.out)
    for number in range(rounds):
        steps = total * (number + 1) // rounds - total * number // rounds
        folders = []
        for branch in (0, 1):
            folder = out / f"round-{number + 1}" / f"branch-{branch + 1}"
            train = replace(config.train, steps=steps, seed=config.train.seed + 2 * number + branch)
            branched = replace(config, model=current, out=str(folder), train=train)
            run_config(branched, resume=(folder / "config.yaml").is_file(), lean=True)
            folders.append(folder)
        start, students = _models(config, folders)
        merged = out / f"round-{number + 1}" / "merged"
        save_model(model_stock(start.model, students)[0], merged)
        current = str(merged)
    return Path(current)


def _read(runs: Sequence[Path]) -> tuple[LoadedModel, list[nn.Module]]:
    """The common start, with a head where the students have one, and the students."""
    configs = [_config(folder) for folder in runs]
    models = {config.model for config in configs}
    if len(models) > 1:
        raise RunFolderError(f"`runs` must share one start; got {', '.join(sorted(models))}")
    return _models(configs[0], runs)


def _models(config: FinetuneConfig, runs: Sequence[Path]) -> tuple[LoadedModel, list[nn.Module]]:
    """The start of a configuration, with a head where the students have one, and the students of runs."""
    students = [load_model(folder / "student").model for folder in runs]
    start = load_model(config.model, seed=config.train.seed)
    match_head(start.model, students[0])
    return start, students


def _config(folder: Path) -> FinetuneConfig:
    if not (folder / "config.yaml").is_file() or not (folder / "student").is_dir():
        raise RunFolderError(f"{folder}: not a finished run; give the folder of `tracerft finetune --out`")
    return read_config(folder / "config.yaml")


def _held_out(kind: str, suite: Suite | None) -> Split:
    split = None if suite is None else suite.selection.get("id")
    if split is None or split.labels is None:
        raise ArgumentError(
            f"{kind} chooses on held-out images with labels; run with --hold_out 0.1, or merge otherwise"
        )
    return split


def _accuracy(model: nn.Module, tokenize: Tokenize, split: Split) -> float:
    return float(right(Predictor({"": model}, tokenize), split).double().mean())


def _tpgm(start: LoadedModel, student: nn.Module, split: Split) -> Merged:
    """Radii by cross-entropy on held-out images, a batch after the other; a run without a head is scored zero-shot."""
    images = torch.cat(list(split.images.image_batches()))
    labels = torch.from_numpy(split.labels)
    rows = None if class_head(student) is not None else zero_shot_head(student, start.tokenize, split.prompts)
    step = 0

    def loss(model: nn.Module) -> Tensor:
        nonlocal step
        chosen = (torch.arange(BATCH) + step * BATCH) % len(images)
        step += 1
        embedded = model.encode_image(images[chosen], normalize=True)  # type: ignore[operator]
        head = class_head(model)
        logits = head(embedded) if head is not None else model.logit_scale.exp() * embedded @ rows.T  # type: ignore
        return cross_entropy(logits, labels[chosen])

    if not len(images):
        raise DataError("tpgm needs held-out images; got none")
    radii = tpgm_radii(start.model, student, loss)
    merged = tpgm_project(start.model, student, radii)
    return Merged(merged, f"radii learned on {len(images)} held-out images")
