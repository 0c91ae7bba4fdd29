"""Which training images are kept out: a share of each class, the same in every run."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from tracerft.data.manifest import Manifest
from tracerft.data.sampling import keys, uniforms

_PURPOSE = "hold out"


def mark_held_out(manifest: Manifest, share: float) -> NDArray[np.bool_]:
    """Mark the images to keep out of training; no seed enters.

    A class of n images gives ``floor(share * n + u)`` of them, with ``u`` uniform and the class's own, so the expected
    total is ``share`` of all; at least 1 and at most n - 1 where n is 2 or more, none where n is 1. They are those
    whose names have the lowest keys, so neither other classes nor the order of the images matter, and an image more or
    less in a class moves at most one other across. Data without labels draws each image by its position alone.

    Args:
        manifest: n images.
        share: wanted of each class, in [0, 1).

    Returns:
        ``(n,)`` booleans.

    Note:
        Copies of one file under two names can fall on both sides: a manifest knows names and sizes, not contents;
        ``tracerft inspect`` lists them.
    """
    n = len(manifest)
    if manifest.labels is None or share <= 0:
        return uniforms(0, 0, np.arange(n), _PURPOSE) < share
    labels = manifest.labels
    order = np.lexsort((keys(0, 0, _numbers([s.name for s in manifest.samples]), _PURPOSE), labels))
    sizes = np.bincount(labels, minlength=len(manifest.classes))
    rank = np.arange(n) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # within the class, by key
    wanted = np.floor(share * sizes + uniforms(0, 0, _numbers(manifest.classes), "share"))
    out = np.zeros(n, dtype=bool)
    out[order] = rank < np.where(sizes > 1, np.clip(wanted, 1, sizes - 1), 0)[labels[order]]
    return out


def _numbers(names: list[str] | tuple[str, ...]) -> NDArray[np.int64]:
    """A 64-bit number for each name."""
    digests = b"".join(hashlib.sha256(name.encode(errors="surrogatepass")).digest()[:8] for name in names)
    return np.frombuffer(digests, dtype="<i8").astype(np.int64)
