"""A fixed part of a split, for measurements that are made often."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tracerft.data.sampling import keys
from tracerft.data.splits import CaptionedImages, LabelledImages
from tracerft.data.suite import ImageSource, Split

BATCH = 64


@dataclass(frozen=True)
class Rows:
    """Small images that are kept as they are shown.

    Args:
        pixels: ``(n, 3, H, W)``.
        sha256: hash of what they were taken from.
    """

    pixels: Tensor
    sha256: str

    def __len__(self) -> int:
        """Number of images n."""
        return len(self.pixels)

    def image_batches(self) -> Iterator[Tensor]:
        """All images in order, ``(N, 3, H, W)`` at a time."""
        yield from torch.split(self.pixels, BATCH)


def part_of(split: Split, samples: int, purpose: str) -> Split:
    """At most ``samples`` images of a split, in their order; the same in every run, whatever its seed.

    Args:
        split: with labels or captions; prompts stay those of the whole.
        samples: how many, at least 1.
        purpose: keys the draw, so that splits of one size are not cut alike.

    Returns:
        The split itself where it has no more.
    """
    ids = drawn(len(split), samples, purpose)
    if len(ids) == len(split):
        return split
    return replace(
        split,
        images=_images(split.images, ids),
        labels=None if split.labels is None else split.labels[ids],
        positives=None if split.positives is None else [split.positives[i] for i in ids],
        groups=None if split.groups is None else tuple(split.groups[i] for i in ids),
    )


def drawn(n: int, samples: int, purpose: str) -> NDArray[np.int64]:
    """Sorted positions of ``samples`` of ``n`` things: those with the smallest keys."""
    order = np.argsort(keys(0, 0, np.arange(n), purpose), kind="stable")
    return np.sort(order[:samples]).astype(np.int64)


def _images(images: ImageSource, ids: NDArray[np.int64]) -> ImageSource:
    """Files are decoded again when asked for; anything else is read once and kept."""
    if isinstance(images, LabelledImages):
        return LabelledImages(images.manifest.subset(ids), images.spec, images.prompts, border=images.border)
    if isinstance(images, CaptionedImages):
        return CaptionedImages(images.manifest.subset(ids), images.spec, border=images.border)
    rows, first = [], 0
    for batch in images.image_batches():
        inside = ids[(ids >= first) & (ids < first + len(batch))] - first
        rows.append(batch[torch.from_numpy(inside)])
        first += len(batch)
    return Rows(torch.cat(rows), images.sha256)
