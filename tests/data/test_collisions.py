"""Expected share of equal captions in a batch, against enumeration, simulation and closed forms."""

import itertools

import numpy as np
import pytest
from scipy.stats import hypergeom

from tracerft.data.collisions import shared_share

MIXED = [[0], [0, 1], [1, 2, 3], [0, 2], [4], [3]]  # numbers of captions from 1 to 3, and one that nobody shares


def arrays(rows) -> list[np.ndarray]:
    """As `ImagePairs` keeps them."""
    return [np.array(row, dtype=np.int64) for row in rows]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 9])
def test_every_batch_and_every_draw_in_mean(size):
    """From: enumeration of all subsets and all choices of captions, in float64."""
    batches = list(itertools.combinations(MIXED, min(size, len(MIXED))))
    means = []
    for batch in batches:
        draws = list(itertools.product(*batch))
        means.append(sum(d.count(c) > 1 for d in draws for c in d) / (len(draws) * len(batch)))
    assert shared_share(arrays(MIXED), size) == pytest.approx(sum(means) / len(means), abs=1e-12)


def test_a_large_simulation_agrees():
    """From: 40,000 random batches of 8 out of 60 images with 1 to 5 of 50 captions; six standard errors."""
    rng = np.random.default_rng(0)
    rows = arrays(rng.choice(50, rng.integers(1, 6), replace=False) for _ in range(60))
    shares = []
    for _ in range(40_000):
        drawn = [rows[i][int(rng.random() * len(rows[i]))] for i in rng.permutation(60)[:8]]
        shares.append(sum(drawn.count(c) > 1 for c in drawn) / 8)
    error = np.std(shares) / np.sqrt(len(shares))
    assert 0 < error < 1e-3
    assert shared_share(rows, 8) == pytest.approx(np.mean(shares), abs=6 * error)


@pytest.mark.parametrize("templates", [1, 7, 80])
def test_classes_in_templates_are_hypergeometric(templates):
    """From: scipy's distribution of the images of one's class in the rest of the batch; images of a class share ids."""
    sizes, batch = (1300, 900, 2, 1), 64
    n = sum(sizes)
    rows = [ids for c, size in enumerate(sizes) for ids in [np.arange(templates) + templates * c] * size]
    expected = 0.0
    for size in sizes:
        k = np.arange(size)
        alone = (hypergeom.pmf(k, n - 1, size - 1, batch - 1) * (1 - 1 / templates) ** k).sum()
        expected += size / n * (1 - alone)
    assert shared_share(rows, batch) == pytest.approx(expected, rel=1e-9)


def test_the_ends():
    """All the same, all different, a batch of one."""
    assert shared_share(arrays([[0]] * 5), 3) == 1.0
    assert shared_share(arrays([[i] for i in range(5)]), 5) == 0.0
    assert shared_share(arrays([[0]] * 5), 1) == 0.0
