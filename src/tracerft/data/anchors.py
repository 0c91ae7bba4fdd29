"""Richer text for images that are finetuned with class names: captions of their own, and pairs found in a pool.

Legend: n training images, m pairs of the pool, N in a batch, D embedding size.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tracerft.data.pairs import ImagePairs
from tracerft.data.sampling import uniforms
from tracerft.errors import DataError
from tracerft.types import Batch

Embed = Callable[[Iterable[Tensor]], Tensor]
CHUNK = 1024  # training images compared with the pool at once


class Anchors:
    """What ARF adds to a batch (Han et al. 2024): each is there or not.

    Args:
        captions: of each of n training images, one or more; empty without.
        tokenize: captions to ``(N, L)`` token ids.
        images: all training images in order, to search the pool with; called only if there is one.
        pool: image-caption pairs like those of the pretraining, ``None`` without.
        neighbours: pool pairs found for each training image, from which one is drawn a step.
        seed: of draws.

    Raises:
        DataError: if there is neither, or the pool is smaller than the neighbours wanted.
    """

    def __init__(
        self,
        captions: Sequence[Sequence[str]],
        tokenize: Callable[[Sequence[str]], Tensor],
        images: Callable[[], Iterable[Tensor]],
        pool: ImagePairs | None = None,
        *,
        neighbours: int = 5,
        seed: int = 0,
    ) -> None:
        if not captions and pool is None:
            raise DataError("arf needs captions beside the labels, or a pool; give a caption column, or --pool DATA")
        if pool is not None and len(pool) < neighbours:
            raise DataError(f"`pool` has {len(pool)} pairs; at least {neighbours} are needed")
        self._ids: dict[str, int] = {}
        self._of_image = [[self._ids.setdefault(text, len(self._ids)) for text in texts] for texts in captions]
        self._texts = tuple(self._ids)
        self._tokenize, self._images, self._pool = tokenize, images, pool
        self._neighbours, self._seed = neighbours, seed
        self._nearest: NDArray[np.int64] | None = None

    @property
    def has_captions(self) -> bool:
        """Whether training images have captions of their own."""
        return bool(self._of_image)

    @property
    def has_pool(self) -> bool:
        """Whether there is a pool to search."""
        return self._pool is not None

    def search(self, embed: Embed) -> None:
        """Find the pool pairs whose images are most like each training image.

        Args:
            embed: batches of images to unit-norm embeddings ``(n, D)`` by the pretrained model.
        """
        if self._pool is not None:
            mine = embed(self._images())
            theirs = embed(_in_order(self._pool))
            best = [(part @ theirs.T).topk(self._neighbours, dim=1).indices for part in torch.split(mine, CHUNK)]
            self._nearest = torch.cat(best).numpy()

    @property
    def nearest(self) -> NDArray[np.int64] | None:
        """``(n, neighbours)`` positions in the pool, nearest first; ``None`` before `search`."""
        return self._nearest

    def captions(self, sample_ids: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """A caption for each sample: token ids ``(N, L)`` and caption ids ``(N,)``, equal where captions are."""
        ids = sample_ids.cpu().numpy()
        draws = uniforms(self._seed, step, ids, "anchor caption")
        chosen = [self._of_image[i][int(u * len(self._of_image[i]))] for i, u in zip(ids, draws, strict=True)]
        return self._tokenize([self._texts[c] for c in chosen]), torch.tensor(chosen)

    def retrieved(self, sample_ids: Tensor, step: int) -> Batch:
        """A pair of the pool for each sample; one that several samples draw comes once."""
        assert self._pool is not None
        assert self._nearest is not None
        ids = sample_ids.cpu().numpy()
        places = (uniforms(self._seed, step, ids, "anchor pair") * self._neighbours).astype(np.int64)
        return self._pool.batch(np.unique(self._nearest[ids, places]), step)


def _in_order(pool: ImagePairs, size: int = 64) -> Iterable[Tensor]:
    for first in range(0, len(pool), size):
        yield pool.batch(np.arange(first, min(first + size, len(pool))), 0).images
