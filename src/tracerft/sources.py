"""Data, as a configuration names it, to training batches and a suite."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tracerft.config import FinetuneConfig
from tracerft.data.anchors import Anchors
from tracerft.data.collisions import shared_share
from tracerft.data.digits import DigitSet, load_digits, without_embedded
from tracerft.data.hold_out import mark_held_out
from tracerft.data.manifest import Manifest, read_manifest
from tracerft.data.pairs import ImagePairs
from tracerft.data.prompts import class_captions, read_templates
from tracerft.data.remote import is_url
from tracerft.data.splits import EvalImages, LabelledImages
from tracerft.data.suite import Split, Suite, digit_suite, of_manifest, read_suite
from tracerft.distributed import ALONE, World
from tracerft.errors import ArgumentError, DataError, did_you_mean
from tracerft.models.encoder import LoadedModel
from tracerft.types import ImageSpec

WITH_ANCHORS = ("arf", "arf_lite")  # trained on class prompts, with captions of the data as an extra


@dataclass(frozen=True)
class Parts:
    """What a run trains and is evaluated on.

    Args:
        source: training batches.
        suite: evaluation splits.
        classes: class names in label order, empty where the data has none.
        collisions: expected share in [0, 1] of the pairs of a batch that share their caption with another.
        prompts: of each class, in label order; what a class head starts from.
        anchors: extra pairs for ARF.
    """

    source: DigitSet | ImagePairs
    suite: Suite
    classes: tuple[str, ...]
    collisions: float
    prompts: tuple[tuple[str, ...], ...] = ()
    anchors: Anchors | None = None


def is_digits(data: str) -> bool:
    """Whether ``data`` names digits: the embedded ones, or a folder with MNIST's IDX files."""
    folder = Path(data)
    return data == "digits" or any((folder / f"train-images-idx3-ubyte{end}").is_file() for end in ("", ".gz"))


def read_parts(config: FinetuneConfig, loaded: LoadedModel, world: World = ALONE) -> Parts:
    """Training source and suite of a configuration; ranks in ``world`` share the indexing of training tars.

    Raises:
        TracerftError: one line that names what is missing or does not fit.
    """
    if is_digits(config.data):
        return _digits(config, loaded)
    if not is_url(config.data) and not Path(config.data).exists():
        raise DataError(
            f"`data` {config.data!r} does not exist; expected images in folders, a table or tars, or digits"
            + did_you_mean(config.data, ["digits"])
        )
    spec = image_spec(loaded)
    templates = run_templates(config)
    manifest = read_manifest(config.data, columns=config.columns.named(), classes=config.classes, world=world)
    train, held = _hold_out(manifest, config.hold_out)
    richer = config.method in WITH_ANCHORS
    source = ImagePairs(
        train.without_captions() if richer else train,
        spec,
        loaded.tokenize,
        templates=templates,
        seed=config.train.seed,
        augment=config.augment,
        broken=config.broken,  # type: ignore[arg-type]
    )
    selection = None if held is None else of_manifest(held, spec, templates, broken=config.broken)
    if config.suite is not None:
        suite = read_suite(
            Path(config.suite), spec, templates=templates, classes=manifest.classes or None, broken=config.broken
        )
        suite = Suite(suite.id, suite.shifts, {} if selection is None else {"id": selection})
    elif selection is None:
        none = "is 0" if config.hold_out == 0 else f"{config.hold_out:g} keeps none of {len(manifest)} images out"
        raise ArgumentError(f"`suite` must be given when `hold_out` {none}, or there is nothing to evaluate on")
    else:
        suite = Suite(selection, {})
    collisions = expected_collisions(source, config.train.batch_size)
    anchors = _anchors(config, train, source) if richer else None
    return Parts(source, suite, manifest.classes, collisions, _prompts(manifest, templates), anchors)


def training_split(parts: Parts) -> Split:
    """The training images of a run with labels, in order and without augmentation."""
    source = parts.source
    if isinstance(source, DigitSet):
        return Split(source, source.labels, parts.prompts)
    images = LabelledImages(source.manifest, source.spec, parts.prompts, broken="skip" if source.skip else "error")
    return Split(images, images.labels, parts.prompts)


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


def expected_collisions(source: ImagePairs, batch_size: int) -> float:
    """Expected share in [0, 1] of the pairs of a batch whose caption another pair of the batch carries too."""
    return shared_share(source.caption_ids, batch_size)


def _anchors(config: FinetuneConfig, train: Manifest, source: ImagePairs) -> Anchors:
    """Captions that the data has beside its labels, and the pool."""
    pool = None
    if config.pool is not None:
        found = read_manifest(config.pool)
        if not found.has_captions:
            raise DataError(f"`pool` {config.pool}: needs a caption for every image; got none")
        pool = ImagePairs(found, source.spec, source.tokenize, augment=False, seed=config.train.seed)
    captions = [sample.captions for sample in train.samples] if train.has_captions else []
    images = EvalImages(source.manifest, source.spec)
    return Anchors(captions, source.tokenize, images.image_batches, pool, seed=config.train.seed)


def _prompts(manifest: Manifest, templates: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Captions of the classes that training images are labelled with; none where they have no labels."""
    return () if manifest.labels is None else class_captions(manifest.classes, templates)


def _templates(value: str) -> str | Sequence[str]:
    return [value] if "{" in value else value


def _hold_out(manifest: Manifest, share: float) -> tuple[Manifest, Manifest | None]:
    """Training and held-out part; which is which does not depend on the run's seed."""
    out = mark_held_out(manifest, share)
    if not out.any():
        return manifest, None
    if out.all():
        raise ArgumentError(
            f"`hold_out` {share:g} keeps all {len(manifest)} images out of training; give more, or lower it"
        )
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
    return Parts(train, suite, train.captions, chance, tuple((caption,) for caption in train.captions))
