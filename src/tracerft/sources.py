"""Data, as a configuration names it, to training batches and a suite."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tracerft.config import FinetuneConfig
from tracerft.data.digits import DigitSet, load_digits, without_embedded
from tracerft.data.manifest import Manifest, read_manifest
from tracerft.data.pairs import ImagePairs
from tracerft.data.prompts import read_templates
from tracerft.data.sampling import keys, uniforms
from tracerft.data.suite import Suite, digit_suite, of_manifest, read_suite
from tracerft.errors import ArgumentError, DataError, did_you_mean
from tracerft.models.encoder import LoadedModel
from tracerft.types import ImageSpec


@dataclass(frozen=True)
class Parts:
    """What a run trains and is evaluated on.

    Args:
        source: training batches.
        suite: evaluation splits.
        classes: class names in label order, empty where the data has none.
        collisions: expected share in [0, 1] of the pairs of a batch that share their caption with another.
    """

    source: DigitSet | ImagePairs
    suite: Suite
    classes: tuple[str, ...]
    collisions: float


def is_digits(data: str) -> bool:
    """Whether ``data`` names digits: the embedded ones, or a folder with MNIST's IDX files."""
    folder = Path(data)
    return data == "digits" or any((folder / f"train-images-idx3-ubyte{end}").is_file() for end in ("", ".gz"))


def read_parts(config: FinetuneConfig, loaded: LoadedModel) -> Parts:
    """Training source and suite of a configuration.

    Raises:
        TracerftError: one line that names what is missing or does not fit.
    """
    if is_digits(config.data):
        return _digits(config, loaded)
    if not Path(config.data).exists():
        raise DataError(
            f"`data` {config.data!r} does not exist; expected images in folders, a table or tars, or digits"
            + did_you_mean(config.data, ["digits"])
        )
    spec = image_spec(loaded)
    templates = run_templates(config)
    manifest = read_manifest(config.data, columns=config.columns.named(), classes=config.classes)
    train, held = _hold_out(manifest, config.hold_out)
    source = ImagePairs(
        train,
        spec,
        loaded.tokenize,
        templates=templates,
        seed=config.train.seed,
        augment=config.augment,
        broken=config.broken,  # type: ignore[arg-type]
    )
    held_out = None if held is None else of_manifest(held, spec, templates, broken=config.broken)
    if config.suite is not None:
        suite = read_suite(
            Path(config.suite), spec, templates=templates, classes=manifest.classes or None, broken=config.broken
        )
        suite = Suite(suite.id, suite.shifts, {} if held_out is None else {"id": held_out})
    elif held_out is None:
        raise ArgumentError("`suite` must be given when `hold_out` is 0, or there is nothing to evaluate on")
    else:
        suite = Suite(held_out, {})
    return Parts(source, suite, manifest.classes, expected_collisions(source, config.train.batch_size))


def run_suite(config: FinetuneConfig, loaded: LoadedModel, suite: str | None) -> Suite:
    """The splits a run is evaluated on: its own, or those of another suite, with the run's classes and templates."""
    if suite is None:
        return read_parts(config, loaded).suite
    if is_digits(suite):
        return digit_suite(digit_folder(suite), config.digits.task, None)  # type: ignore[arg-type]
    classes = None
    if not is_digits(config.data):
        classes = read_manifest(config.data, columns=config.columns.named(), classes=config.classes).classes or None
    templates = run_templates(config)
    return read_suite(Path(suite), image_spec(loaded), templates=templates, classes=classes, broken=config.broken)


def model_suite(loaded: LoadedModel, suite: str, templates: str) -> Suite:
    """The splits of a suite for a model without a run."""
    if is_digits(suite):
        return digit_suite(digit_folder(suite), "coloured", None)
    spec = image_spec(loaded)
    return read_suite(Path(suite), spec, templates=read_templates(_templates(templates)), classes=None)


def run_templates(config: FinetuneConfig) -> tuple[str, ...]:
    """The sentences that a run made captions of class names with."""
    return read_templates(_templates(config.templates))


def digit_folder(data: str) -> Path | None:
    """Where digits lie; ``None`` for the embedded ones."""
    return None if data == "digits" else Path(data)


def image_spec(loaded: LoadedModel) -> ImageSpec:
    """How the model wants its images.

    Raises:
        ArgumentError: if it takes digits only.
    """
    if loaded.image is None:
        raise ArgumentError(
            f"`model` {loaded.source} reads 28x28 digits only; for images give open_clip:..., hf:... or "
            "mini:lite0-minilm"
        )
    return loaded.image


def expected_collisions(source: ImagePairs, batch_size: int, *, batches: int = 20) -> float:
    """Share of pairs in a batch whose caption another pair of the batch carries too, over some first batches."""
    size = min(batch_size, len(source))
    shared = 0
    for number in range(batches):
        ids = np.argsort(keys(source.seed, number, np.arange(len(source)), "collisions"))[:size]
        _, inverse, counts = np.unique(source.draw_captions(ids, number), return_inverse=True, return_counts=True)
        shared += int((counts[inverse] > 1).sum())
    return shared / (size * batches)


def _templates(value: str) -> str | Sequence[str]:
    return [value] if "{" in value else value


def _hold_out(manifest: Manifest, share: float) -> tuple[Manifest, Manifest | None]:
    """Training and held-out part; which is which does not depend on the run's seed."""
    out = uniforms(0, 0, np.arange(len(manifest)), "hold out") < share
    if not out.any():
        return manifest, None
    return manifest.subset(np.flatnonzero(~out)), manifest.subset(np.flatnonzero(out))


def _digits(config: FinetuneConfig, loaded: LoadedModel) -> Parts:
    options, folder = config.digits, digit_folder(config.data)
    pool = load_digits(folder, "train")
    pool = (without_embedded(pool) if options.without_embedded else pool).part(options.start, options.count)
    kept = len(pool) - round(len(pool) * config.hold_out)
    shown: dict[str, Any] = {"task": options.task, "agreement": options.agreement, "seed": config.train.seed}
    train = DigitSet(pool.part(0, kept), tokenize=loaded.tokenize, **shown)
    held_out = DigitSet(pool.part(kept, None), **shown) if kept < len(pool) else None
    chance = 1.0 - (1.0 - 1.0 / len(train.captions)) ** (config.train.batch_size - 1)
    suite = digit_suite(folder, train.task, held_out)
    return Parts(train, suite, train.captions, chance)
