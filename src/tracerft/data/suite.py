"""A suite: what is in distribution, and named shifts from it, each with how it is scored.

Legend: n images, H classes the zero-shot head knows, C classes scored.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tracerft.data.benchmarks import build_benchmark
from tracerft.data.columns import GROUP
from tracerft.data.digits import DigitSet, Task, load_digits
from tracerft.data.listed import LogitMap
from tracerft.data.manifest import Manifest, manifest_of_files, read_manifest
from tracerft.data.prompts import class_captions, read_templates
from tracerft.data.splits import CaptionedImages, LabelledImages
from tracerft.data.suite_file import SplitFile, read_suite_file
from tracerft.data.text import shown
from tracerft.errors import DataError
from tracerft.types import ImageSpec


class ImageSource(Protocol):
    """Images in a fixed order."""

    @property
    def sha256(self) -> str:
        """Hash of the images and of how they are shown."""
        ...

    def __len__(self) -> int:
        """Number of images n."""
        ...

    def image_batches(self) -> Iterator[Tensor]:
        """All images in order, ``(N, 3, H, W)`` at a time."""
        ...


@runtime_checkable
class Showing(Protocol):
    """Images that a person can be shown, too."""

    def shown(self, index: int) -> Tensor:
        """The image at a position as a model gets it, before mean and deviation: ``(H, W, 3)`` uint8.

        Raises:
            DataError: if it cannot be read.
        """
        ...


@dataclass(frozen=True)
class Split:
    """Images and how a model is scored on them: by classification, or by retrieval where there are no labels.

    Args:
        images: in a fixed order.
        labels: ``(n,)`` ids of scored classes; ``None`` for retrieval.
        prompts: captions of each of H classes; for retrieval the distinct captions, one each.
        positives: for retrieval, the prompts that belong to each image.
        logit_map: from H to C classes, before any softmax.
        groups: the group of each image, where the worst group counts.
        ignored_groups: groups that cannot be the worst.
        metric: the one to look at first: ``top1``, ``macro_f1`` or ``worst_group``.
        warnings: what a reader of the numbers should know.
        classes: names of the C scored classes by id; empty for retrieval.
    """

    images: ImageSource
    labels: NDArray[np.int64] | None
    prompts: Sequence[Sequence[str]]
    positives: Sequence[Sequence[int]] | None = None
    logit_map: LogitMap | None = None
    groups: tuple[str, ...] | None = None
    ignored_groups: tuple[str, ...] = ()
    metric: str = "top1"
    warnings: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of images n."""
        return len(self.images)

    @property
    def sha256(self) -> str:
        """Hash of images, labels, prompts and transform."""
        return self.images.sha256


@dataclass(frozen=True)
class Suite:
    """What a model is evaluated on.

    Args:
        id: the test split of the task that was finetuned.
        shifts: other test splits, by name.
        selection: held-out training data, never trained on and never reported as a result; choices
            between settings are made here.
    """

    id: Split
    shifts: Mapping[str, Split]
    selection: Mapping[str, Split] = field(default_factory=dict)

    def splits(self) -> dict[str, Split]:
        """Every split by its name in a record; selection splits are called ``select-<name>``."""
        return {"id": self.id, **self.shifts, **{f"select-{name}": s for name, s in self.selection.items()}}


def of_digits(digits: DigitSet) -> Split:
    """Digits as their task shows and names them."""
    return Split(digits, digits.labels, [[caption] for caption in digits.captions], classes=digits.captions)


def digit_suite(folder: Path | None, task: Task, held_out: DigitSet | None) -> Suite:
    """The test splits of a digit task.

    Args:
        folder: MNIST IDX files, ``None`` for the embedded digits.
        task: what was trained; a coloured task is tested with its colours (``id``), in grey with ten
            captions (``original``), with colour at random and with colour flipped.
        held_out: training digits kept out for selection, shown as the task shows them.
    """
    test = load_digits(folder, "test")
    if task == "grey":
        selection = {} if held_out is None else {"id": of_digits(held_out)}
        return Suite(of_digits(DigitSet(test, "grey")), {}, selection)
    shifts = {
        "original": of_digits(DigitSet(test, "grey")),
        "colour-random": of_digits(DigitSet(test, task, agreement=0.5)),
        "colour-flipped": of_digits(DigitSet(test, task, agreement=0.0)),
    }
    selection = {}
    if held_out is not None:
        selection = {"id": of_digits(held_out), "original": of_digits(DigitSet(held_out.digits, "grey"))}
    return Suite(of_digits(DigitSet(test, task)), shifts, selection)


def of_manifest(manifest: Manifest, spec: ImageSpec, templates: Sequence[str], *, broken: str = "error") -> Split:
    """A data set as a split: classified where it has labels, else retrieved by its captions.

    Raises:
        DataError: if it has neither.
    """
    if manifest.labels is not None:
        prompts = class_captions(manifest.classes, templates)
        labelled = LabelledImages(manifest, spec, prompts, broken=broken)
        groups = labelled.manifest.groups  # not the argument's: broken images may have been left out
        warned, names = labelled.warnings, manifest.classes
        return Split(labelled, labelled.labels, prompts, groups=groups, warnings=warned, classes=names)
    captioned = CaptionedImages(manifest, spec, broken=broken)
    prompts = tuple((caption,) for caption in captioned.captions)
    positives = [ids.tolist() for ids in captioned.caption_ids]
    return Split(captioned, None, prompts, positives, warnings=captioned.warnings)


def read_suite(
    path: Path, spec: ImageSpec, *, templates: Sequence[str], classes: Sequence[str] | None, broken: str = "error"
) -> Suite:
    """A suite file, or one data set as the only split, ready to be evaluated.

    Args:
        path: a YAML file, or anything that `read_manifest` reads.
        spec: how the model wants its images.
        templates: used where the suite names none.
        classes: names in label order that a run was trained with; by default the suite's, or the ID set's own.
        broken: ``error`` or ``skip``.

    Raises:
        DataError: one line, also if the class names of two sets do not match.
    """
    if path.suffix.lower() not in (".yaml", ".yml"):
        manifest = read_manifest(path)
        if classes and manifest.classes:
            manifest = manifest.with_classes(classes)
        return Suite(of_manifest(manifest, spec, templates, broken=broken), {})
    suite = read_suite_file(path)
    if suite.templates is not None:
        templates = read_templates(suite.templates)
    names = suite.classes or classes
    if names is None and suite.id.builder is None:
        names = read_manifest(suite.id.data, columns=suite.id.columns).classes or None
    made = {}
    for split in (suite.id, *suite.shifts.values()):
        made[split.name] = _split(split, spec, templates, names, broken)
    return Suite(made.pop(suite.id.name), made)


def _split(
    split: SplitFile, spec: ImageSpec, templates: Sequence[str], classes: Sequence[str] | None, broken: str
) -> Split:
    if split.builder is not None:
        return _benchmark(split, spec, templates)
    columns = dict(split.columns) if split.group is None else {**split.columns, GROUP: split.group}
    manifest = read_manifest(split.data, columns=columns)
    if split.group is not None and manifest.labels is None:
        raise DataError(
            f"{split.name}.group: {shown(split.data)} has captions and no labels, so its groups have no accuracy; name "
            "a label column, or remove group"
        )
    if classes and manifest.classes:
        manifest = manifest.with_classes(split.subset or classes)
    return replace(of_manifest(manifest, spec, templates, broken=broken), metric=split.metric or "top1")


def _benchmark(split: SplitFile, spec: ImageSpec, templates: Sequence[str]) -> Split:
    listed = build_benchmark(str(split.builder), split.data, split.split)
    prompts = class_captions(listed.head_classes, templates)
    manifest = manifest_of_files(listed.paths, listed.labels, listed.class_names)
    images = LabelledImages(manifest, spec, prompts, border=listed.border)
    warned = images.warnings if listed.shortfall is None else (*images.warnings, listed.shortfall)
    return Split(
        images,
        listed.labels,
        prompts,
        logit_map=listed.logit_map,
        groups=listed.groups,
        ignored_groups=listed.ignored_groups,
        metric=split.metric or listed.metric,
        warnings=warned,
        classes=listed.class_names,
    )
