"""Paired intervals against scipy's bootstrap, a plain loop and the normal approximation."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap

from tracerft.errors import ArgumentError, ShapeError
from tracerft.evaluation.statistics import mean_paired_difference, paired_difference


def two_models(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Hits of two models that agree on most samples; the first is better by about 3 points."""
    generator = np.random.default_rng(seed)
    both = generator.random(n) < 0.7
    first = np.where(generator.random(n) < 0.2, generator.random(n) < 0.6, both)
    second = np.where(generator.random(n) < 0.2, generator.random(n) < 0.45, both)
    return first, second


def test_hits_equal_scipy_and_the_normal_approximation():
    """The same percentile interval as scipy's paired bootstrap, and as mean +- 1.96 standard errors."""
    first, second = two_models(2000)
    ours = paired_difference(torch.from_numpy(first), torch.from_numpy(second), seed=1)
    theirs = bootstrap(
        (first.astype(float) - second,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    difference = first.astype(float) - second
    error = difference.std() / math.sqrt(2000)
    assert ours.difference == pytest.approx(first.mean() - second.mean(), abs=1e-12)
    # Quantiles of 10,000 resamples carry a noise of about 3 % of a standard error, scipy's of 5,000 about 4 %.
    assert ours.ci95 == pytest.approx((theirs.low, theirs.high), abs=0.2 * error)
    expected = (difference.mean() - 1.96 * error, difference.mean() + 1.96 * error)
    assert ours.ci95 == pytest.approx(expected, abs=0.15 * error)
    assert ours.n == 2000


@pytest.mark.parametrize("n", [40, 3000])
def test_general_scores_equal_a_plain_loop(n):
    """Few samples are exact, many are binned; both equal drawing the samples one resample at a time."""
    generator = np.random.default_rng(5)
    first, second = generator.gamma(1.0, size=n) + 0.05, generator.gamma(1.0, size=n)
    difference = first - second
    loop = [difference[generator.integers(0, n, n)].mean() for _ in range(4000)]
    ours = paired_difference(first, second)
    error = difference.std() / math.sqrt(n)
    assert ours.ci95 == pytest.approx(np.quantile(loop, [0.025, 0.975]), abs=0.2 * error)


def test_bins_keep_the_variance_of_skewed_scores():
    """One huge outlier among many small scores: its count decides the interval, as in the plain loop."""
    generator = np.random.default_rng(8)
    scores = generator.normal(size=1000)
    scores[3] = 500.0
    loop = [scores[generator.integers(0, 1000, 1000)].mean() for _ in range(8000)]
    low, high = paired_difference(scores, np.zeros(1000)).ci95
    assert (low, high) == pytest.approx(np.quantile(loop, [0.025, 0.975]), abs=0.05)
    assert high > 1.3  # the outlier three times: 3 * 0.5


def test_average_over_splits_equals_a_loop_over_independent_splits():
    """Three splits of different size, each with weight 1/3."""
    splits = [two_models(n, seed) for seed, n in enumerate((300, 800, 2000))]
    ours = mean_paired_difference(splits, seed=3)
    generator = np.random.default_rng(9)
    differences = [a.astype(float) - b for a, b in splits]
    loop = [np.mean([d[generator.integers(0, len(d), len(d))].mean() for d in differences]) for _ in range(4000)]
    error = math.sqrt(sum(d.var() / len(d) for d in differences)) / 3
    assert ours.difference == pytest.approx(np.mean([d.mean() for d in differences]), abs=1e-12)
    assert ours.ci95 == pytest.approx(np.quantile(loop, [0.025, 0.975]), abs=0.2 * error)
    assert ours.n == 3100


def test_equal_splits_are_still_resampled_independently():
    """Two copies of one split: the interval shrinks by sqrt(2), which one shared draw would not do."""
    pair = two_models(2000)
    one, two = paired_difference(*pair), mean_paired_difference([pair, pair])
    assert (two.ci95[1] - two.ci95[0]) / (one.ci95[1] - one.ci95[0]) == pytest.approx(math.sqrt(0.5), rel=0.08)


def test_coverage_is_near_the_nominal_one():
    """Of 400 experiments about 95 % of the intervals hold the true difference, 0.03."""
    generator = np.random.default_rng(4)
    held = 0
    for seed in range(400):
        second = generator.random(500) < 0.6
        first = np.where(second, generator.random(500) < 0.95, generator.random(500) < 0.15)
        low, high = paired_difference(first, second, resamples=1000, seed=seed).ci95
        held += low <= 0.03 <= high
    assert 0.91 <= held / 400 <= 0.98


def test_p_agrees_with_the_interval_and_the_seed_fixes_both():
    """Significant where the interval leaves out 0, 1 for identical models, equal for equal seeds."""
    first, second = two_models(2000)
    sure = paired_difference(first, second)
    assert (sure.p < 0.05) == (sure.ci95[0] > 0)
    assert sure == paired_difference(first, second)
    assert sure.ci95 != paired_difference(first, second, seed=1).ci95
    turned = paired_difference(second, first)
    assert turned.difference == -sure.difference
    same = paired_difference(first, first)
    assert (same.difference, same.ci95, same.p) == (0.0, (0.0, 0.0), 1.0)


def test_one_sample_and_constant_differences_have_no_spread():
    """Length 1, and one difference many times."""
    assert paired_difference([1.0], [0.0]).ci95 == (1.0, 1.0)
    assert paired_difference(np.full(400, 0.75), np.full(400, 0.5)).ci95 == (0.25, 0.25)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "word"),
    [
        (([1, 0], [1]), {}, ShapeError, "one length"),
        (([[1, 0]], [[1, 0]]), {}, ShapeError, "vectors"),
        (([], []), {}, ArgumentError, "at least one sample"),
        (([1.0, math.nan], [0, 0]), {}, ArgumentError, "finite"),
        (([1], [0]), {"resamples": 10}, ArgumentError, "resamples"),
    ],
)
def test_mistakes_are_one_line(arguments, options, error, word):
    """Each names the argument and the cure."""
    with pytest.raises(error, match=word) as caught:
        paired_difference(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_no_split_is_refused():
    """An average over nothing."""
    with pytest.raises(ArgumentError, match="at least one split"):
        mean_paired_difference([])
