"""Claims about DaWin: entropies to shares, a mixture that finds its parts, and samples that keep their place."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from tests.conftest import SMALL
from tests.evaluation.test_suite import PROMPTS, Counted, Telling
from tracerft.averaging import interpolate
from tracerft.data.suite import Split
from tracerft.errors import ArgumentError, ShapeError
from tracerft.evaluation.dawin import BetaMixture, dawin_results, entropy, fit_beta_mixture, mixing_weights
from tracerft.evaluation.metrics import summarise
from tracerft.evaluation.suite import Predictor
from tracerft.models.tiny import TinyDualEncoder


def draw_logits(seed, n=40, classes=7, size=3.0):
    """Random float64 logits."""
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(n, classes, generator=generator, dtype=torch.float64)


def plain_entropy(row):
    """By Python numbers."""
    total = sum(math.exp(x - max(row)) for x in row)
    shares = [math.exp(x - max(row)) / total for x in row]
    return -sum(p * math.log(p) for p in shares if p > 0)


def test_entropy_is_the_plain_sum_and_knows_its_ends():
    """A loop; log C for equal logits, 0 for a sure one, classes of -inf do not count."""
    logits = draw_logits(0)
    assert entropy(logits).tolist() == pytest.approx([plain_entropy(row) for row in logits.tolist()], rel=1e-12)
    ends = torch.tensor([[2.0, 2.0, 2.0, -math.inf], [0.0, 900.0, 0.0, 0.0]])
    assert entropy(ends).tolist() == pytest.approx([math.log(3), 0.0])
    assert entropy(draw_logits(0).bfloat16()).dtype == torch.float64


def test_the_plain_ratio_is_e1_over_both():
    """A loop over the samples; a surer finetuned model gets more."""
    a, b = draw_logits(1), draw_logits(2)
    shares = mixing_weights(a, b, offset=False)
    for share, x, y in zip(shares.tolist(), a.tolist(), b.tolist(), strict=True):
        h0, h1 = plain_entropy(x), plain_entropy(y)
        assert share == pytest.approx(math.exp(-h1) / (math.exp(-h0) + math.exp(-h1)), rel=1e-12)
        assert (share > 0.5) == (h1 < h0)


def test_the_offset_form_is_that_of_the_published_script():
    """A loop in Python numbers over the formulas of the restated recipe, section 16."""
    a, b = draw_logits(1), draw_logits(2, size=1.0)
    h0, h1 = ([plain_entropy(row) for row in logits.tolist()] for logits in (a, b))
    mean0, mean1 = sum(h0) / len(h0), sum(h1) / len(h1)
    std0, std1 = (math.sqrt(sum((h - m) ** 2 for h in hs) / (len(hs) - 1)) for hs, m in ((h0, mean0), (h1, mean1)))
    offset, omega = (std0 / mean0 + std1 / mean1) / 2, (mean0 + mean1) / mean0
    expected = [
        (math.exp(-y) + offset / omega) / (math.exp(-x) + math.exp(-y) + offset) for x, y in zip(h0, h1, strict=True)
    ]
    assert mixing_weights(a, b).tolist() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("offset", [True, False])
def test_equal_entropies_give_one_half(offset):
    """Other classes, same entropies; and a single sample, and a single class, and sure models."""
    logits = draw_logits(3)
    for a, b in (
        (logits, logits.flip(1)),
        (logits[:1], logits[:1].flip(1)),
        (logits[:, :1], logits[:, :1]),
        (torch.eye(3) * 2000, torch.eye(3) * 3000),
    ):
        assert mixing_weights(a, b, offset=offset).tolist() == pytest.approx([0.5] * len(a), abs=1e-12)


@pytest.mark.parametrize("offset", [True, False])
def test_shares_stay_inside_zero_and_one(offset):
    """A sure model against one that knows nothing, among 1000 classes, both ways."""
    sure, lost = torch.zeros(2, 1000), torch.zeros(2, 1000)
    sure[:, 3] = 500.0
    for a, b in ((sure, lost), (lost, sure)):
        shares = mixing_weights(a, b, offset=offset)
        assert bool(((shares > 0) & (shares < 1)).all())


def test_log_joint_is_weight_times_the_density_of_scipy():
    """Three components."""
    mixture = BetaMixture(np.array([0.2, 0.3, 0.5]), np.array([0.5, 2.0, 30.0]), np.array([0.5, 3.0, 10.0]))
    x = np.array([0.01, 0.4, 0.75, 0.99])
    expected = np.log(mixture.weights) + scipy.stats.beta.logpdf(x[:, None], mixture.a, mixture.b)
    np.testing.assert_allclose(mixture.log_joint(x), expected, rtol=1e-10)
    np.testing.assert_array_equal(mixture.groups(x), expected.argmax(axis=1))
    np.testing.assert_allclose(mixture.means, scipy.stats.beta.mean(mixture.a, mixture.b))


def test_the_mixture_finds_the_parts_that_made_the_values():
    """3000 draws of three known densities (NumPy), shuffled: means, weights, shapes and the group of most samples."""
    generator = np.random.default_rng(0)
    parts = ((20.0, 80.0, 1500), (50.0, 50.0, 900), (90.0, 10.0, 600))
    values = np.concatenate([generator.beta(a, b, n) for a, b, n in parts])
    truth = np.repeat([0, 1, 2], [n for *_, n in parts])
    order = generator.permutation(len(values))
    mixture = fit_beta_mixture(values[order])
    np.testing.assert_allclose(mixture.means, [0.2, 0.5, 0.9], atol=0.01)
    np.testing.assert_allclose(mixture.weights, [0.5, 0.3, 0.2], atol=0.02)
    drawn = [values[truth == k] for k in range(3)]
    sums = [part.mean() * (1 - part.mean()) / part.var() - 1 for part in drawn]  # moments of what was drawn
    np.testing.assert_allclose(mixture.a + mixture.b, sums, rtol=0.05)
    assert (mixture.groups(values) == truth).mean() > 0.98


def test_the_fit_depends_on_numbers_alone():
    """Twice the same to the bit; another order changes nothing but rounding."""
    values = np.random.default_rng(1).beta(2, 5, 400)
    one, two, other = (fit_beta_mixture(x) for x in (values, values, values[::-1]))
    for field in ("weights", "a", "b"):
        np.testing.assert_array_equal(getattr(one, field), getattr(two, field))
        np.testing.assert_allclose(getattr(one, field), getattr(other, field), rtol=1e-6)


def test_one_component_has_the_mean_of_the_values():
    """So one merged model is WiSE-FT at the mean; its variance is theirs as well."""
    values = np.random.default_rng(2).beta(4, 9, 300)
    mixture = fit_beta_mixture(values, 1)
    assert mixture.means[0] == pytest.approx(values.mean(), rel=1e-12)
    variance = scipy.stats.beta.var(mixture.a[0], mixture.b[0])
    assert variance == pytest.approx(values.var(), rel=1e-6)


@pytest.mark.parametrize(
    "values", [[0.5], [0.3, 0.3, 0.3], [0.2, 0.2, 0.8], [1e-6, 0.5, 1 - 1e-6], [0.4] * 50 + [0.400001] * 50]
)
def test_few_or_equal_values_are_fitted_too(values):
    """No more components than distinct values, all of it finite, each value in a group near it."""
    x = np.array(values)
    mixture = fit_beta_mixture(x)
    assert len(mixture.means) == min(3, len(set(values)))
    assert np.isfinite(mixture.a).all()
    assert np.isfinite(mixture.b).all()
    assert mixture.weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(mixture.means[mixture.groups(x)], x, atol=0.05)


@pytest.fixture
def world():
    """Two models and a labelled split."""
    start, end = TinyDualEncoder(SMALL, seed=1), TinyDualEncoder(SMALL, seed=2)
    return start, end, Split(Counted(), np.array([0, 1, 2, 0, 1, 2, 0]), PROMPTS)


def test_each_sample_is_answered_by_its_groups_model_and_keeps_its_place(world):
    """Logits against one merged model a sample, in the order of the split; splits without labels are left out."""
    start, end, split = world
    own = Predictor({"start": start, "end": end}, Telling())
    shares = mixing_weights(own.logits("start", split), own.logits("end", split)).numpy()
    mixture = fit_beta_mixture(shares)
    groups = mixture.groups(shares)
    assert len(set(groups.tolist())) > 1
    rows = []
    for i, k in enumerate(groups.tolist()):
        merged = interpolate(start, end, float(mixture.means[k]))
        rows.append(Predictor({"m": merged}, Telling()).logits("m", split)[i])
    unlabelled = Split(split.images, None, [("x",), ("y",)], [[0], [1], [0], [0, 1], [1], [1], [0]])
    results = dawin_results(start, end, {"id": split, "texts": unlabelled}, Telling())
    assert results.keys() == {"id"}
    assert results["id"] == summarise(torch.stack(rows), torch.from_numpy(split.labels))


def test_mistakes_are_refused():
    """Shapes, values that are not numbers, counts."""
    logits = draw_logits(4)
    with pytest.raises(ShapeError, match="of one shape"):
        mixing_weights(logits, logits[:, 1:])
    for wrong in (logits[0], logits[:0]):
        with pytest.raises(ShapeError, match="not empty"):
            entropy(wrong)
    for value in (math.nan, math.inf):
        with pytest.raises(ArgumentError, match="NaN or infinite"):
            entropy(torch.tensor([[0.0, value]]))
    for values in ([0.0, 0.5], [0.5, 1.0], [], [[0.5]], [math.nan]):
        with pytest.raises(ArgumentError, match="`values` must be"):
            fit_beta_mixture(np.array(values))
    with pytest.raises(ArgumentError, match="`components`"):
        fit_beta_mixture(np.array([0.5]), 0)
