"""Images with captions, as batches to train on.

Legend: n images, N in a batch.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tracerft.data.images import check_spec, eval_image, normalise, to_pixels, train_pixels
from tracerft.data.loading import CACHE_BYTES, Loader
from tracerft.data.manifest import Manifest
from tracerft.data.prompts import class_captions
from tracerft.data.sampling import generator, keys, uniforms
from tracerft.data.text import first_five
from tracerft.errors import DataError, one_of
from tracerft.types import Batch, ImageSpec

Broken = Literal["error", "skip"]
_MAX_BROKEN_IN_A_ROW = 100


def caption_table(
    manifest: Manifest, templates: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[NDArray[np.int64], ...]]:
    """Every distinct caption, and for each image the ids of the captions it may be shown with.

    An image's own captions come first; without them they are its class name in every template.

    Raises:
        DataError: if there are neither captions nor labels with templates.
    """
    if manifest.has_captions:
        ids: dict[str, int] = {}
        of_image = tuple(
            np.array([ids.setdefault(text, len(ids)) for text in s.captions], dtype=np.int64) for s in manifest.samples
        )
        return tuple(ids), of_image
    labels = manifest.labels
    if labels is None or not templates:
        raise DataError(
            "the data has no captions, so it needs labels and templates to train on pairs; add a caption column, or "
            "give templates such as openai_imagenet"
        )
    ids = {}
    of_class = [
        np.array([ids.setdefault(text, len(ids)) for text in texts], dtype=np.int64)
        for texts in class_captions(manifest.classes, templates)
    ]
    return tuple(ids), tuple(of_class[label] for label in labels)


class ImagePairs:
    """Training batches of images and captions; a batch is a pure function of sample ids and epoch.

    Args:
        manifest: the images.
        spec: how the model wants them.
        tokenize: captions to ``(N, L)`` token ids.
        templates: to make captions of class names; not used where images have captions of their own.
        seed: of crops and caption draws; the run's seed.
        augment: random crops; without, images are as in evaluation.
        broken: ``error``, or ``skip``: an image that cannot be decoded is replaced by another, drawn by
            the sample's own key, and counted in `warnings`.
        threads: that decode.
        cache_bytes: memory for decoded images.

    Raises:
        DataError: if there are no captions and none can be made.
    """

    def __init__(
        self,
        manifest: Manifest,
        spec: ImageSpec,
        tokenize: Callable[[Sequence[str]], Tensor],
        *,
        templates: Sequence[str] | None = None,
        seed: int = 0,
        augment: bool = True,
        broken: Broken = "error",
        threads: int | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        one_of("broken", broken, ("error", "skip"))
        check_spec(spec)
        self.manifest, self.spec, self.tokenize, self.seed, self.augment = manifest, spec, tokenize, seed, augment
        self.skip = broken == "skip"
        self.captions, self.caption_ids = caption_table(manifest, templates)  # and which of them each image may have
        self._loader = Loader(manifest, threads=threads, cache_bytes=cache_bytes)
        self._replaced: dict[int, str] = {}

    def __len__(self) -> int:
        """Number of images n."""
        return len(self.manifest)

    @cached_property
    def sha256(self) -> str:
        """Hash of all that decides what a batch holds, but for pixels that changed without a change of size."""
        spec = [list(self.spec.size), self.spec.mean, self.spec.std, self.spec.interpolation, self.spec.resize]
        plain = [self.manifest.sha256, self.captions, spec, self.seed, self.augment, self.skip]
        return hashlib.sha256(json.dumps(plain).encode()).hexdigest()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the manifest warned of, and the images replaced so far."""
        if not self._replaced:
            return self.manifest.warnings
        names = [self.manifest.samples[i].name for i in sorted(self._replaced)]
        return (*self.manifest.warnings, f"{len(names)} broken images replaced by others: {first_five(names)}")

    def batch(self, sample_ids: NDArray[np.int64], epoch: int) -> Batch:
        """The pairs of these samples in this epoch.

        Raises:
            DataError: naming the file, if an image is broken and may not be skipped.
        """
        made = self._loader.map(lambda i: self._pixels(int(i), epoch), sample_ids)
        ids = np.array([index for index, _ in made], dtype=np.int64)
        captions = self.draw_captions(ids, epoch)
        distinct, inverse = np.unique(captions, return_inverse=True)
        tokens = self.tokenize([self.captions[i] for i in distinct])[torch.from_numpy(inverse)]
        labels = None if self.manifest.labels is None else torch.from_numpy(self.manifest.labels[ids])
        images = normalise([pixels for _, pixels in made], self.spec)
        return Batch(images, tokens, labels, torch.from_numpy(captions), torch.from_numpy(ids))

    def draw_captions(self, sample_ids: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        """``(N,)`` caption ids: for each sample one of its captions, drawn anew each epoch."""
        draws = uniforms(self.seed, epoch, sample_ids, "caption")
        choices = [self.caption_ids[int(i)] for i in sample_ids]
        return np.array([c[int(u * len(c))] for c, u in zip(choices, draws, strict=True)], dtype=np.int64)

    def _pixels(self, index: int, epoch: int) -> tuple[int, Tensor]:
        index, image = self._whole(index, epoch) if self.skip else (index, self._loader.image(index))
        if not self.augment:
            return index, to_pixels(eval_image(image, self.spec))
        return index, train_pixels(image, self.spec, generator(self.seed, epoch, index, "crop"))

    def _whole(self, index: int, epoch: int) -> tuple[int, Image.Image]:
        """The sample itself, or if it is broken the first whole one from a keyed position on."""
        start = int(keys(self.seed, epoch, np.array([index]), "replacement")[0] % np.uint64(len(self)))
        last = ""
        for step in range(-1, min(_MAX_BROKEN_IN_A_ROW, len(self))):
            candidate = index if step < 0 else (start + step) % len(self)
            try:
                return candidate, self._loader.image(candidate)
            except DataError as error:
                last = self._replaced[candidate] = str(error)
        raise DataError(f"{min(_MAX_BROKEN_IN_A_ROW, len(self))} images in a row are broken, the last: {last}")
