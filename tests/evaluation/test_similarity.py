"""Similarity of features: what it is blind to, known values, other hands; and of whole towers."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from tests.conftest import SMALL
from tracerft.data.suite import Split
from tracerft.errors import ArgumentError, ShapeError
from tracerft.evaluation.similarity import EMBEDDING, layer_similarity, linear_cka, svcca, tower_features
from tracerft.models.features import feature_layers
from tracerft.models.tiny import TinyDualEncoder

MEASURES = (linear_cka, svcca)


def random(*shape, seed=0):
    """Normal numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("measure", MEASURES)
def test_equal_features_are_fully_alike(measure):
    """Also after a rotation, one common scale and a shift, which both are blind to."""
    x = random(60, 5)
    rotation = torch.linalg.qr(random(5, 5, seed=1))[0]
    assert measure(x, x) == pytest.approx(1.0, abs=1e-12)
    assert measure(x, 3.0 * x @ rotation + 7.0) == pytest.approx(1.0, abs=1e-12)
    y = random(60, 4, seed=2)
    assert 0.0 < measure(x, y) < 0.6
    assert measure(0.1 * x @ rotation - 2.0, y) == pytest.approx(measure(x, y), abs=1e-12)
    assert measure(y, x) == pytest.approx(measure(x, y), abs=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
def test_features_without_correlation_are_not_alike(measure):
    """Columns of one orthonormal centred basis, some here and some there."""
    centred = random(40, 6) - random(40, 6).mean(0)
    basis = torch.linalg.qr(centred)[0]
    assert measure(basis[:, :3], basis[:, 3:]) == pytest.approx(0.0, abs=1e-12)


def test_cka_closed_form():
    """One column each: the squared correlation. Two that share one of two orthonormal columns: 1/2."""
    x, y = random(30, 1), random(30, 1, seed=1)
    assert linear_cka(x, y) == pytest.approx(float(np.corrcoef(x[:, 0], y[:, 0])[0, 1] ** 2), abs=1e-12)
    basis = torch.linalg.qr(random(30, 3) - random(30, 3).mean(0))[0]
    assert linear_cka(basis[:, :2], basis[:, 1:]) == pytest.approx(0.5, abs=1e-12)


def test_cka_is_the_loop_over_kernels():
    """HSIC of both (n, n) kernels from plain sums (Kornblith et al., equation 3)."""
    x, y = random(7, 3).tolist(), random(7, 4, seed=1).tolist()
    n = len(x)

    def centred_kernel(rows):
        k = [[sum(a * b for a, b in zip(r, s, strict=True)) for s in rows] for r in rows]
        means = [sum(row) / n for row in k]
        whole = sum(means) / n
        return [[k[i][j] - means[i] - means[j] + whole for j in range(n)] for i in range(n)]

    def hsic(p, q):
        return sum(p[i][j] * q[i][j] for i in range(n) for j in range(n))

    p, q = centred_kernel(x), centred_kernel(y)
    expected = hsic(p, q) / math.sqrt(hsic(p, p) * hsic(q, q))
    assert linear_cka(torch.tensor(x), torch.tensor(y)) == pytest.approx(expected, rel=1e-6)


def test_svcca_with_all_directions_is_the_mean_cosine_of_scipys_angles():
    """Canonical correlations are cosines of the angles between the column spaces (scipy.linalg.subspace_angles)."""
    x, y = random(50, 4), random(50, 3, seed=1)
    angles = scipy.linalg.subspace_angles((x - x.mean(0)).numpy(), (y - y.mean(0)).numpy())
    assert svcca(x, y, variance=1.0) == pytest.approx(float(np.cos(angles).mean()), abs=1e-10)


def test_svcca_drops_directions_of_little_variance():
    """Two strong shared columns; a weak one that differs counts only where all variance is kept (2/3)."""
    basis = torch.linalg.qr(random(40, 4) - random(40, 4).mean(0))[0]
    x, y = (basis[:, [0, 1, i]] * torch.tensor([3.0, 2.0, 0.01]) for i in (2, 3))
    assert svcca(x, y) == pytest.approx(1.0, abs=1e-12)
    assert svcca(x, y, variance=1.0) == pytest.approx(2 / 3, abs=1e-12)


def test_what_cannot_be_compared_is_said():
    """Other rows, no variation, a share out of range."""
    with pytest.raises(ShapeError, match=r"got \(3, 2\) and \(4, 2\)"):
        linear_cka(random(3, 2), random(4, 2))
    with pytest.raises(ArgumentError, match="`y` must differ between images"):
        svcca(random(5, 2), torch.full((5, 2), 0.1))
    with pytest.raises(ArgumentError, match="`variance`"):
        svcca(random(5, 2), random(5, 2), variance=0.0)
    with pytest.raises(ArgumentError, match="share layers"):
        layer_similarity({"a": random(3, 2)}, {"b": random(3, 2)})


class Images:
    """Forty random images in two batches."""

    sha256 = ""

    def __len__(self):
        return 40

    def image_batches(self):
        """In order."""
        yield from random(40, 3, 28, 28).float().split(25)


def test_towers_are_compared_layer_by_layer():
    """A tower equals itself everywhere; one changed behind its blocks differs in the embedding alone."""
    split = Split(Images(), None, [])
    one, other = TinyDualEncoder(SMALL, seed=0), TinyDualEncoder(SMALL, seed=0).train()
    layers = feature_layers(one, 12)
    features = tower_features(one, split, layers)
    assert [len(f) for f in features.values()] == [40] * len(features)
    with torch.no_grad():
        expected = one.eval().encode_image(random(40, 3, 28, 28).float())
        other.visual.proj.mul_(random(1, SMALL.embed_dim).float())
    torch.testing.assert_close(features[EMBEDDING], expected, rtol=1e-5, atol=1e-6)
    found = layer_similarity(features, tower_features(other, split, layers))
    assert other.training
    assert list(found) == [*layers, EMBEDDING]
    assert found[layers[0]]["cka"] == pytest.approx(1.0, abs=1e-9)
    assert found[EMBEDDING]["cka"] < 0.999
