"""Sampling error of the test set: one model's interval, and paired intervals for two models on the same samples.

Legend: n samples, R resamples, V distinct differences or bins. Imports `errors` only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from tracerft.errors import ArgumentError, ShapeError

# Differences with more distinct values than this are put into as many bins of equal width.
MAX_VALUES = 256
Scores = Tensor | ArrayLike


@dataclass(frozen=True)
class PairedDifference:
    """How much higher the first model scores than the second, on the samples that both saw.

    Args:
        difference: mean of first minus second.
        ci95: percentile interval of the bootstrap, in the unit of the scores.
        p: two-sided, from the same resamples: below 0.05 when ``ci95`` leaves out 0.
        n: samples in all.
    """

    difference: float
    ci95: tuple[float, float]
    p: float
    n: int


def paired_difference(first: Scores, second: Scores, *, resamples: int = 10_000, seed: int = 0) -> PairedDifference:
    """Paired bootstrap of the difference of two models' mean scores.

    Args:
        first: ``(n,)`` scores of one model: hits (bool) for accuracy, or any number a sample.
        second: ``(n,)`` scores of the other model on the same samples in the same order.
        resamples: how often the samples are drawn anew, at least 100.
        seed: of the draws; equal seeds give equal intervals.

    Raises:
        ShapeError: if the two are not vectors of one length.
        ArgumentError: if there is no sample, a score is not finite, or ``resamples`` is too low.

    Note:
        A resample only matters through how often each distinct difference occurs in it, and these counts are
        multinomial: for hits (-1, 0, 1) the bootstrap is exact and takes milliseconds. Scores with more than 256
        distinct differences are counted in 256 bins of equal width; the spread within a bin is added as a normal
        term, so that mean and variance of the bootstrap stay exact.

    Example:
        >>> paired_difference([True, True, True, False], [True, True, True, False]).ci95
        (0.0, 0.0)
    """
    return mean_paired_difference([(first, second)], resamples=resamples, seed=seed)


def mean_paired_difference(
    pairs: Sequence[tuple[Scores, Scores]], *, resamples: int = 10_000, seed: int = 0
) -> PairedDifference:
    """Paired bootstrap of the average over several splits, each resampled by itself and weighted equally.

    Args:
        pairs: ``(first, second)`` of every split, as in `paired_difference`; lengths may differ between splits.
        resamples: how often each split's samples are drawn anew, at least 100.
        seed: of the draws; every split has a stream of its own.

    Raises:
        ShapeError: if a pair is not two vectors of one length.
        ArgumentError: if there is no pair or no sample, a score is not finite, or ``resamples`` is too low.
    """
    if not pairs:
        raise ArgumentError("`pairs` must hold at least one split; got none; pass [(first, second), ...]")
    enough(resamples)
    differences = [_difference(first, second) for first, second in pairs]
    total = np.zeros(resamples)
    for difference, stream in zip(differences, np.random.SeedSequence(seed).spawn(len(pairs)), strict=True):
        total += _resampled_means(difference, resamples, np.random.default_rng(stream))
    mean = float(np.mean([d.mean() for d in differences]))
    return summary(mean, total / len(pairs), sum(len(d) for d in differences))


def summary(difference: float, resampled: NDArray[np.float64], n: int) -> PairedDifference:
    """Percentile interval and two-sided p from the resampled differences ``(R,)`` of ``n`` samples."""
    low, high = np.quantile(resampled, [0.025, 0.975])
    tail = min(int((resampled <= 0).sum()), int((resampled >= 0).sum()))
    p = min(1.0, 2 * (tail + 1) / (len(resampled) + 1))  # + 1: the data themselves count as one resample
    return PairedDifference(difference=difference, ci95=(float(low), float(high)), p=p, n=n)


def enough(resamples: int) -> None:
    """Raise `ArgumentError` for fewer than 100 resamples."""
    if resamples < 100:
        raise ArgumentError(f"`resamples` must be at least 100; got {resamples}; 10000 is usual")


def wilson_interval(correct: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a fraction: sampling error of the test set, not of the training seed.

    Args:
        correct: number of hits, 0 to ``n``.
        n: number of samples, at least 1.
        level: coverage, between 0 and 1.

    Returns:
        ``(low, high)`` in [0, 1].

    Raises:
        ArgumentError: if a number is outside its range.

    Example:
        >>> [round(x, 4) for x in wilson_interval(8, 10)]
        [0.4902, 0.9433]
    """
    if n < 1 or not 0 <= correct <= n:
        raise ArgumentError(f"`correct` must be from 0 to `n` with `n` at least 1; got {correct} of {n}; check counts")
    if not 0.0 < level < 1.0:
        raise ArgumentError(f"`level` must be between 0 and 1; got {level}; 0.95 is usual")
    z2 = NormalDist().inv_cdf(0.5 + level / 2.0) ** 2
    share = correct / n
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # At the two ends the formula gives exactly 0 and 1; rounding must not move them inside.
    low = 0.0 if correct == 0 else max(0.0, centre - half)
    high = 1.0 if correct == n else min(1.0, centre + half)
    return low, high


def _difference(first: Scores, second: Scores) -> NDArray[np.float64]:
    a, b = (torch.as_tensor(scores).detach().cpu().double().numpy() for scores in (first, second))
    if a.ndim != 1 or a.shape != b.shape:
        raise ShapeError(
            f"`first` and `second` must be vectors of one length; got {a.shape} and {b.shape}; "
            "score both models on the same samples"
        )
    if len(a) == 0:
        raise ArgumentError("`first` must hold at least one sample; got none; check data")
    difference: NDArray[np.float64] = a - b
    if not np.isfinite(difference).all():
        bad = int((~np.isfinite(difference)).sum())
        raise ArgumentError(f"scores must be finite; {bad} of {len(difference)} differences are not; check the models")
    return difference


def _resampled_means(
    difference: NDArray[np.float64], resamples: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """``(R,)`` means of n draws with replacement from ``difference`` ``(n,)``."""
    n = len(difference)
    values, counts = np.unique(difference, return_counts=True)
    variances = None
    if len(values) > MAX_VALUES:
        values, variances, counts = _binned(difference)
    drawn = generator.multinomial(n, counts / n, size=resamples).astype(np.float64)  # (R, V)
    sums: NDArray[np.float64] = drawn @ values
    if variances is not None:
        sums += np.sqrt(drawn @ variances) * generator.standard_normal(resamples)
    return sums / n


def _binned(
    difference: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Mean, variance and size, each ``(V,)``, of the bins of equal width that hold something."""
    low, high = difference.min(), difference.max()
    index = np.minimum(((difference - low) / (high - low) * MAX_VALUES).astype(np.int64), MAX_VALUES - 1)
    _, index, counts = np.unique(index, return_inverse=True, return_counts=True)
    means = np.bincount(index, weights=difference) / counts
    variances = np.bincount(index, weights=(difference - means[index]) ** 2) / counts
    return means, variances, counts
