"""Which runs stand behind which table of the paper, and what they take in passes and disk; opens no image.

Legend: T optimiser steps, N pairs in a batch; the unit of cost is a forward of one image, tau a text forward in it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from tracerft.config import GROUPS, FinetuneConfig, group
from tracerft.data.sampling import steps_per_epoch
from tracerft.errors import ArgumentError, one_of
from tracerft.methods import METHODS
from tracerft.studies.ablations import intervals, settings_of
from tracerft.studies.published import NAMES, paper_tables
from tracerft.studies.variants import length, variant
from tracerft.studies.worlds import World
from tracerft.training.checkpoint import KEEP

NUM_TRAIN = 1_281_167  # training images of ImageNet-1K (ILSVRC 2012)
DIRECT = 3.0  # forwards a pair of direct finetuning, ce_ft
BYTES = 4  # of a weight: models, moments and averages are float32


@dataclass(frozen=True)
class Backbone:
    """A start of the paper.

    Args:
        preset: holds its recipe.
        gflops: of a forward of one image and of one text, from open_clip's table of model profiles.
        image: parameters of the image tower.
        text: all other parameters.
    """

    preset: str
    gflops: tuple[float, float]
    image: int
    text: int

    @property
    def tau(self) -> float:
        """A text forward in image forwards."""
        return self.gflops[1] / self.gflops[0]


BACKBONES = {
    "ViT-B/16": Backbone("imagenet-vitb16", (35.13, 5.96), 86_192_640, 63_428_097),
    "RN50": Backbone("imagenet-rn50", (12.22, 5.96), 38_316_896, 63_690_241),
    "ViT-L/14": Backbone("imagenet-vitl14", (162.03, 13.30), 303_966_208, 123_650_305),
}
PARTS = {"8": "terms", "9": "sd_weight", "10": "update_every", "11": "kernel"}  # of the ablation study
TWIN = 1000  # added to a seed for the second run of Model Stock


@dataclass(frozen=True)
class PaperRow:
    """A row of a table.

    Args:
        table: its number.
        printed: what the table calls the row, see `published.paper_tables`.
        label: for a reader.
        value: what an ablation varies.
        method: of the METHODS table.
        key: names the folder of a run that differs from the method's own.
        options: of `variants.variant`.
    """

    table: str
    printed: str
    label: str
    value: float | None
    method: str
    key: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


def tables_of(backbone: str, wanted: str = "all") -> tuple[str, ...]:
    """Numbers of a backbone's tables, all of them or those that are asked for, such as ``1,3``.

    Raises:
        ArgumentError: for another backbone, or a table that does not have it.
    """
    one_of("backbone", backbone, tuple(BACKBONES))
    there = tuple(number for number, of in paper_tables().items() if backbone in of)
    if wanted == "all":
        return there
    asked = [number.strip() for number in wanted.split(",")]
    for number in asked:
        if number not in there:
            raise ArgumentError(
                f"`tables`: {backbone} is in Tables {', '.join(there)}; got {number!r}; choose among these, or another "
                "`backbone`"
            )
    return tuple(number for number in there if number in asked)


def rows_of(table: str, backbone: str, steps: int) -> list[PaperRow]:
    """Rows of a table in its order; intervals of Table 10 are the same shares of T as the paper's."""
    of = paper_tables()[table][backbone]
    printed = list(of.get("accuracy") or of["ece"])
    if table not in PARTS:
        return [PaperRow(table, name, name, None, NAMES[name]) for name in printed]
    found = []
    for s in settings_of(steps):
        if s.part == PARTS[table] and s.published is not None:
            value = None if s.value is None else intervals(steps)[int(s.value)] if table == "10" else s.value
            name = s.key[-4:] if value is None else next(p for p in printed if float(p) == value)
            found.append(PaperRow(table, name, s.label, s.value, s.method, s.key, s.options))
    return sorted(found, key=lambda row: printed.index(row.printed))


def recipe(
    out: Path, imagenet: Path, backbone: str, *, model: str | None, steps: int | None, batch_size: int | None
) -> FinetuneConfig:
    """The preset of a backbone on ``imagenet/train``, its length in steps; files that `paper.run` writes are named."""
    text = (resources.files("tracerft") / "presets" / f"{BACKBONES[backbone].preset}.yaml").read_text(encoding="utf-8")
    raw = yaml.safe_load(text)
    raw |= {name: group(kind, raw.get(name), name) for name, kind in GROUPS.items()}
    raw |= {"data": str(imagenet / "train"), "out": str(out)}
    base = FinetuneConfig(**raw, suite=str(out / "suite.yaml"), classes=str(out / "classes.txt"))
    size = batch_size or base.train.batch_size
    train = replace(base.train, batch_size=size, steps=base.train.epochs * steps_per_epoch(NUM_TRAIN, size))
    if steps is not None:  # the warm-up of a trial run is a tenth of it
        train = replace(train, steps=steps, warmup_steps=None)
    return replace(base, model=model or base.model, train=train)


def configs_of(world: World, row: PaperRow, seed: int) -> list[FinetuneConfig]:
    """The runs behind a row; none for the start, or for what cannot be run here. Equal runs share their folder."""
    if row.method == "zero_shot" or row.method in world.without:
        return []
    if row.method != "model_stock":
        return [variant(world, row.method, seed, row.key, **row.options)]
    one = variant(world, "ce_ft", seed)
    return [one, replace(one, out=f"{one.out}-twin", train=replace(one.train, seed=seed + TWIN))]


_COST = re.compile(r"(\d+)(?P<both> \(1 \+ tau\))?(?: \+ (?P<texts>\d+) tau / N)?(?P<first>, after one pass of 1)?")


def forwards(method: str, tau: float, pairs: int, batch_size: int) -> float:
    """Forwards of a whole run, from what the METHODS table says of a pair; a backward counts two.

    Args:
        method: of the METHODS table, with a run of its own.
        tau: see above.
        pairs: T times N.
        batch_size: N.
    """
    cost = _COST.fullmatch(METHODS[method].cost)
    assert cost is not None, METHODS[method].cost  # the tests read the cost of every method of the tables
    one = int(cost[1]) * (1.0 + tau if cost["both"] else 1.0) + int(cost["texts"] or 0) * tau / batch_size
    return one * pairs + (NUM_TRAIN if cost["first"] else 0)


def plan(
    world: World, backbone: str, tables: Sequence[str], seeds: int, workers: int, images_per_second: float | None
) -> dict[str, Any]:
    """What a study of these tables would run, without reading anything.

    Args:
        world: see `paper.paper_world`.
        backbone: of `BACKBONES`.
        tables: numbers.
        seeds: of every run.
        workers: runs at a time, each with its checkpoints.
        images_per_second: what the machine does in direct finetuning (``ce_ft``); without, there are no hours.

    Returns:
        ``steps``, ``pairs`` of a run, ``tables`` (names of runs by number), ``left_out`` (rows without a run, and why),
        ``runs`` (by name: method, tables, forwards and hours of one seed), ``num_runs``, ``forwards`` and ``hours`` of
        all seeds, ``model_bytes`` and ``checkpoint_bytes`` on disk.

    Raises:
        ArgumentError: if the rate is not above 0.
    """
    if images_per_second is not None and not images_per_second > 0:
        raise ArgumentError(f"`images_per_second` must be above 0; got {images_per_second}; measure direct finetuning")
    of, steps, size = BACKBONES[backbone], length(world), world.base.train.batch_size
    names: dict[str, list[str]] = {table: [] for table in tables}
    runs: dict[str, dict[str, Any]] = {}
    left_out = {}
    for row in (row for table in tables for row in rows_of(table, backbone, steps)):
        if row.method in world.without:
            left_out[f"Table {row.table}: {row.label}"] = world.without[row.method]
        for config in configs_of(world, row, 0):
            name = Path(config.out).name.replace("-seed0", "")
            run = runs.setdefault(name, {"method": config.method, "tables": []})
            run["tables"] += [] if row.table in run["tables"] else [row.table]
            names[row.table] += [] if name in names[row.table] else [name]
    for run in runs.values():
        run["forwards"] = forwards(run["method"], of.tau, steps * size, size)
        run["hours"] = run["forwards"] / (DIRECT * images_per_second * 3600) if images_per_second else None
    total = seeds * sum(run["forwards"] for run in runs.values())
    return {
        "steps": steps,
        "pairs": steps * size,
        "tables": names,
        "left_out": left_out,
        "runs": runs,
        "num_runs": seeds * len(runs),
        "forwards": total,
        "hours": total / (DIRECT * images_per_second * 3600) if images_per_second else None,
        "model_bytes": seeds * sum(_kept(run["method"], of) for run in runs.values()),
        "checkpoint_bytes": workers * max((_checkpoints(run["method"], of) for run in runs.values()), default=0),
    }


def _kept(method: str, of: Backbone) -> int:
    """Bytes of the models that a finished run keeps: the student, and an averaged teacher."""
    averaged = 0 if METHODS[method].head else METHODS[method].copies
    return BYTES * (of.image + of.text) * (1 + averaged)


def _checkpoints(method: str, of: Backbone) -> int:
    """Bytes while it trains: weights, two moments, copies; the newest ones, and the one that is being written."""
    info, whole = METHODS[method], of.image + of.text
    return (KEEP + 1) * BYTES * (whole * (1 + info.copies) + 2 * (of.image if info.head else whole))
