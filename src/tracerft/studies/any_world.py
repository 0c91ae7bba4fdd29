"""The setting that the data asks for: digits, emoji, or one's own folders."""

from pathlib import Path

from tracerft.config import FinetuneConfig, TrainConfig
from tracerft.sources import is_digits
from tracerft.studies import shift, toy, worlds
from tracerft.studies.runner import Progress, at_least_one
from tracerft.studies.shift_data import is_emoji
from tracerft.studies.worlds import World


def world_of(
    out: Path,
    *,
    data: str,
    suite: str | None,
    model: str,
    templates: str,
    size: str,
    steps: int,
    batch_size: int,
    lr: float,
    seeds: int,
    workers: int,
    progress: Progress | None = None,
) -> World:
    """A world from what the command is told; digits may be pretrained first, emoji aligned.

    Args:
        out: folder whose ``runs`` hold the runs, also those of other studies of the same world.
        data: ``digits``, a folder of IDX files, a style of emoji, or anything that can be finetuned on.
        suite: of own data.
        model: start, for own data.
        templates: for own data.
        size: of digits, which have length, batch size and rate of their own.
        steps: optimiser steps of each run.
        batch_size: pairs in a batch.
        lr: peak learning rate.
        seeds: starts to make ready.
        workers: processes.
        progress: told about pretraining.
    """
    at_least_one("seeds", seeds)
    path = Path(data)
    if is_digits(data):
        folder = None if data == "digits" else path
        return toy.world(out, size=size, data=folder, seeds=seeds, workers=workers, progress=progress)
    if is_emoji(path.parent):
        return shift.world(
            out, data=path.parent, style=path.name, seeds=seeds, steps=steps, batch_size=batch_size, lr=lr
        )
    train = TrainConfig(steps=steps, batch_size=batch_size, lr=lr, device="cpu", checkpoint_every=0)
    base = FinetuneConfig(model=model, data=data, out=str(out), suite=suite, templates=templates, train=train)
    return worlds.folder_world(base, seeds)
