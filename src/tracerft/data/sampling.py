"""Order and randomness as pure functions of (seed, epoch, sample, purpose).

Nothing here has state, so a resumed, sharded or prefetching run draws exactly what an unbroken one
draws: the workers, ranks and positions that lead to a sample do not enter its key.
"""

import hashlib
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from tracerft.errors import DataError

LISTED = 1 << 22  # samples up to which an epoch's order is a sorted list, as it was for every size at first
ORDER = "feistel"  # what a longer epoch goes by; another network is another name, so that no run goes on with it
# Four make a Feistel network of random functions a random permutation; twice that for functions that are not.
_ROUNDS = 8
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection that scatters close keys."""
    with np.errstate(over="ignore"):
        x = x + _GOLDEN
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def keys(seed: int, epoch: int, samples: NDArray[np.int64], purpose: str) -> NDArray[np.uint64]:
    """One 64-bit key a sample.

    Args:
        seed: the run's seed.
        epoch: epoch number from 0; use 0 for what must not change between epochs.
        samples: ``(n,)`` sample ids.
        purpose: what the draw is for, such as ``"order"``, ``"colour"`` or ``"caption"``.

    Returns:
        ``(n,)`` unsigned keys.
    """
    word = np.uint64(int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little"))
    base = _mix(np.array([seed], dtype=np.int64).view(np.uint64))
    base = _mix(base ^ np.uint64(epoch))
    base = _mix(base ^ word)
    return _mix(base ^ np.asarray(samples, dtype=np.int64).view(np.uint64))


def uniforms(seed: int, epoch: int, samples: NDArray[np.int64], purpose: str) -> NDArray[np.float64]:
    """One uniform number in [0, 1) a sample; arguments as for `keys`."""
    return (keys(seed, epoch, samples, purpose) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def generator(seed: int, epoch: int, sample: int, purpose: str) -> torch.Generator:
    """A torch generator of one sample's own, for transforms that draw many numbers."""
    key = int(keys(seed, epoch, np.array([sample]), purpose)[0])
    return torch.Generator().manual_seed(key >> 1)  # manual_seed takes what fits a signed 64-bit integer


def epoch_order(seed: int, epoch: int, num_samples: int) -> NDArray[np.int64]:
    """The permutation of ``range(num_samples)`` that an epoch of at most `LISTED` samples goes through."""
    order = np.argsort(keys(seed, epoch, np.arange(num_samples), "order"), kind="stable")
    return order.astype(np.int64)


_last_order = lru_cache(maxsize=1)(epoch_order)  # every step of an epoch asks for it; 32 MiB at most


def order_at(seed: int, epoch: int, num_samples: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """The samples at some positions of an epoch's order, in memory of the positions alone where there are many samples.

    Args:
        seed: the run's seed.
        epoch: epoch number from 0.
        num_samples: n >= 1.
        positions: ``(m,)`` in [0, n).

    Returns:
        ``(m,)`` sample ids; a bijection of range(n).
    """
    if num_samples <= LISTED:
        return _last_order(seed, epoch, num_samples)[positions]
    return permuted(seed, epoch, num_samples, positions)


def permuted(seed: int, epoch: int, num_samples: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where a keyed bijection of range(n) takes some numbers: a Feistel network, walked until it is back in range.

    The network permutes the numbers of 2 h bits, fewer than 4 n (Luby, Rackoff 1988). What leaves the range is sent
    through it again, which is a bijection of the range (Black, Rogaway 2002); fewer than four times in the mean.

    Arguments and result are those of `order_at`.
    """
    half = max(1, ((num_samples - 1).bit_length() + 1) // 2)
    found = np.array(positions, dtype=np.int64)
    walking = np.arange(len(found))
    while len(walking):
        found[walking] = _network(seed, epoch, half, found[walking])
        walking = walking[found[walking] >= num_samples]
    return found


def _network(seed: int, epoch: int, half: int, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """One pass of the Feistel network on numbers of two halves of ``half`` bits."""
    left, right = numbers >> half, numbers & ((1 << half) - 1)
    for turn in range(_ROUNDS):
        scattered = keys(seed, epoch, right, f"order {turn}") >> np.uint64(64 - half)
        left, right = right, left ^ scattered.astype(np.int64)
    return left << half | right


def steps_per_epoch(num_samples: int, batch_size: int) -> int:
    """Full batches in an epoch; the short rest is left for the next epoch's other order.

    Raises:
        DataError: if not one batch fits.
    """
    if num_samples < batch_size:
        raise DataError(
            f"the training data has {num_samples} samples, less than one batch of {batch_size}; "
            f"set train.batch_size to at most {num_samples}"
        )
    return num_samples // batch_size


def batch_at(step: int, seed: int, num_samples: int, batch_size: int) -> tuple[int, NDArray[np.int64]]:
    """Epoch and sample ids of optimiser step ``step`` (from 0)."""
    per_epoch = steps_per_epoch(num_samples, batch_size)
    epoch, position = divmod(step, per_epoch)
    start = position * batch_size
    return epoch, order_at(seed, epoch, num_samples, np.arange(start, start + batch_size))
