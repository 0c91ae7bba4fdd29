"""How many pairs of a random batch share their caption with another pair, in expectation.

Legend: n samples, B in a batch; a sample with m captions is shown with each of them with probability 1 / m.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln


def shared_share(caption_ids: Sequence[NDArray[np.int64]], batch_size: int) -> float:
    """Expected share of the pairs of a batch whose caption another pair of the batch carries too.

    Batches are drawn without replacement, captions independently, so with q_jc the probability that sample j is
    shown with caption c: ``1 / n * sum_i sum_c q_ic * (1 - E_S[prod_{j in S} (1 - q_jc)])``, S a random set of B - 1
    of the other n - 1 samples. That is exact, not sampled.

    Args:
        caption_ids: of each of n samples, the distinct captions it may be shown with, one or more.
        batch_size: B; at most n count.

    Returns:
        Fraction in [0, 1].

    Example:
        >>> round(shared_share([np.array([0]), np.array([0]), np.array([1])], 2), 4)  # one batch of the three has twins
        0.3333
    """
    n = len(caption_ids)
    draws = min(batch_size, n) - 1

    @cache
    def lone(others: tuple[tuple[int, int], ...]) -> float:
        return _nobody(dict(others), n - 1, draws)

    total = 0.0
    for carriers in _carriers(caption_ids).values():
        for m, count in carriers.items():
            others = carriers - Counter((m,))
            total += count / m * (1.0 - lone(tuple(sorted(others.items()))))
    return total / n


def _carriers(caption_ids: Sequence[NDArray[np.int64]]) -> dict[int, Counter[int]]:
    """For each caption of two samples or more, how many samples with m captions may be shown with it, by m."""
    # samples of a class share one array, which is counted and not gone through again: 80 templates times 1.3 million
    _, first, counts = np.unique([id(ids) for ids in caption_ids], return_index=True, return_counts=True)
    rows = [caption_ids[i] for i in first]
    lengths = np.array([len(ids) for ids in rows])
    captions, numbers, times = np.concatenate(rows), np.repeat(lengths, lengths), np.repeat(counts, lengths)
    shared = np.bincount(captions, weights=times)[captions] > 1
    carriers: dict[int, Counter[int]] = defaultdict(Counter)
    columns = (column[shared].tolist() for column in (captions, numbers, times))
    for caption, m, count in zip(*columns, strict=True):
        carriers[caption][m] += count
    return carriers


def _nobody(carriers: dict[int, int], population: int, draws: int) -> float:
    """Probability that none of ``draws`` samples out of ``population`` is shown with the caption.

    Args:
        carriers: how many of the population may be, by their number m of captions.
        population: samples to draw from, without replacement.
        draws: at most ``population``.
    """
    size = sum(carriers.values())
    drawn = np.arange(min(size, draws) + 1)  # carriers among the draws
    factors = [1.0 - 1.0 / m for m, count in carriers.items() for _ in range(count)]
    silent = factors[0] ** drawn if len(carriers) == 1 else _mean_products(factors, len(drawn))
    return float((_hypergeometric(drawn, population, size, draws) * silent).sum())


def _mean_products(factors: Sequence[float], length: int) -> NDArray[np.float64]:
    """Mean product of the factors over all subsets of size 0, 1, ..., ``length`` - 1."""
    mean = np.zeros(length)
    mean[0] = 1.0
    for size, factor in enumerate(factors, start=1):
        k = np.arange(1, min(size, length - 1) + 1)  # the new factor is in k / size of the subsets of size k
        mean[k] = (1 - k / size) * mean[k] + k / size * factor * mean[k - 1]
    return mean


def _hypergeometric(drawn: NDArray[np.int64], population: int, size: int, draws: int) -> NDArray[np.float64]:
    """Probability of each of 0, 1, ..., ``min(size, draws)`` carriers among the draws, if ``size`` are in all."""
    logs = _log_choose(size, drawn) + _log_choose(population - size, draws - drawn)
    chances = np.exp(logs - _log_choose(population, draws))
    return np.asarray(chances / chances.sum())  # takes out what rounding leaves of the logarithms


def _log_choose(n: int, k: NDArray[np.int64] | int) -> NDArray[np.float64]:
    """Log of the number of ways to choose ``k`` of ``n``, -inf where k is above n."""
    return np.asarray(gammaln(n + 1) - gammaln(np.add(k, 1)) - gammaln(np.subtract(n + 1, k)))
