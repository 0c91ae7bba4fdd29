"""Images as splits to evaluate on: with labels for classification, with captions for retrieval.

Legend: n images, N in a batch, C classes or captions.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tracerft.data.images import check_spec, eval_image, normalise, to_pixels
from tracerft.data.listed import crop_border
from tracerft.data.loading import CACHE_BYTES, Loader
from tracerft.data.manifest import Manifest
from tracerft.data.pairs import Broken, caption_table
from tracerft.data.text import first_five
from tracerft.errors import DataError, one_of
from tracerft.types import ImageSpec


class EvalImages:
    """All images of a manifest, transformed for evaluation, in order.

    Args:
        manifest: the images.
        spec: how the model wants them.
        broken: ``error``, or ``skip``: every image is decoded at once and the broken ones are left out.
        border: pixels to cut off each side first (ObjectNet's frame).
        batch_size: images at a time.
        threads: that decode.
        cache_bytes: transformed images are kept if all of them fit.
    """

    def __init__(
        self,
        manifest: Manifest,
        spec: ImageSpec,
        *,
        broken: Broken = "error",
        border: int = 0,
        batch_size: int = 64,
        threads: int | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        one_of("broken", broken, ("error", "skip"))
        check_spec(spec)
        self.spec, self.border, self.batch_size = spec, border, batch_size
        self.warnings = manifest.warnings
        if broken == "skip":
            manifest = self._only_whole(manifest, threads)
        if not len(manifest):
            raise DataError("there is no image to evaluate on; check the data set with `tracerft inspect`")
        self.manifest = manifest
        self._loader = Loader(manifest, threads=threads, cache_bytes=0)
        self._keep = len(manifest) * 3 * spec.size[0] * spec.size[1] <= cache_bytes
        self._kept: dict[int, list[Tensor]] = {}

    def __len__(self) -> int:
        """Number of images n."""
        return len(self.manifest)

    def _only_whole(self, manifest: Manifest, threads: int | None) -> Manifest:
        loader = Loader(manifest, threads=threads, cache_bytes=0)
        reasons = loader.map(loader.broken, range(len(manifest)))
        bad = [manifest.samples[i].name for i, reason in enumerate(reasons) if reason is not None]
        if bad:
            self.warnings = (*self.warnings, f"{len(bad)} broken images left out: {first_five(bad)}")
        return manifest.subset([i for i, reason in enumerate(reasons) if reason is None])

    def image_batches(self) -> Iterator[Tensor]:
        """All images in order, ``(N, 3, H, W)`` at a time.

        Raises:
            DataError: naming the file, if an image is broken.
        """
        for start in range(0, len(self), self.batch_size):
            pixels = self._kept.get(start)
            if pixels is None:
                pixels = self._loader.map(self.shown, range(start, min(start + self.batch_size, len(self))))
                if self._keep:
                    self._kept[start] = pixels
            yield normalise(pixels, self.spec)

    def shown(self, index: int) -> Tensor:
        """The image at a position as a model gets it, before mean and deviation: ``(H, W, 3)`` uint8.

        Raises:
            DataError: naming the file, if it is broken.
        """
        image = crop_border(self._loader.image(index), self.border)
        return to_pixels(eval_image(image, self.spec))

    def _hash(self, *more: object) -> str:
        spec = [list(self.spec.size), self.spec.mean, self.spec.std, self.spec.interpolation, self.spec.resize]
        return hashlib.sha256(json.dumps([self.manifest.sha256, spec, self.border, *more]).encode()).hexdigest()


class LabelledImages(EvalImages):
    """Images with class ids and the captions of each class: a split for zero-shot classification.

    Args:
        manifest: the images; all labelled.
        spec: how the model wants them.
        prompts: one or more captions for each class, in the order of ``manifest.classes``.
        options: see `EvalImages`.

    Raises:
        DataError: if there are no labels, or they do not fit the prompts.
    """

    def __init__(self, manifest: Manifest, spec: ImageSpec, prompts: Sequence[Sequence[str]], **options: Any) -> None:
        if manifest.labels is None:
            raise DataError(
                "the data has no labels, so nothing can be classified; give a label column or class folders"
            )
        highest = int(manifest.labels.max()) if len(manifest) else -1
        if highest >= len(prompts) or not all(prompts):
            raise DataError(
                f"labels go up to {highest}, but there are captions for {len(prompts)} classes, or a class has none; "
                "give `classes` with every name"
            )
        self.prompts = tuple(tuple(of_class) for of_class in prompts)
        super().__init__(manifest, spec, **options)

    @property
    def captions(self) -> tuple[str, ...]:
        """The first caption of each class."""
        return tuple(of_class[0] for of_class in self.prompts)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """``(n,)`` class ids."""
        return np.array([s.label for s in self.manifest.samples], dtype=np.int64)

    @cached_property
    def sha256(self) -> str:
        """Hash of images, labels, prompts and transform."""
        return self._hash(self.prompts)


class CaptionedImages(EvalImages):
    """Images with captions: a split for retrieval.

    Args:
        manifest: the images; all with captions.
        spec: how the model wants them.
        options: see `EvalImages`.

    Raises:
        DataError: if there are no captions.
    """

    def __init__(self, manifest: Manifest, spec: ImageSpec, **options: Any) -> None:
        super().__init__(manifest, spec, **options)
        self.captions, self.caption_ids = caption_table(self.manifest, None)

    @cached_property
    def sha256(self) -> str:
        """Hash of images, captions and transform."""
        return self._hash(self.captions)
