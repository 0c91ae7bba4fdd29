"""Claims about Model Stock: special angles, the construction it is derived from, and its poles."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from tests.averaging.test_merge import make_model
from tracerft.averaging import model_stock
from tracerft.errors import ArgumentError, StateError


def at_cosine(c, scale=1.0):
    """An anchor and two models whose differences from it have cosine ``c``."""
    anchor = torch.tensor([3.0, -2.0, 5.0], dtype=torch.float64)
    one = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    other = torch.tensor([c, math.sqrt(1 - c * c), 0.0], dtype=torch.float64)
    return {"w": anchor}, [{"w": anchor + scale * one}, {"w": anchor + scale * other}]


def test_parallel_models_give_their_mean_and_orthogonal_ones_the_anchor():
    """The cosines 1 and 0."""
    anchor, models = {"w": torch.zeros(2)}, [{"w": torch.tensor([2.0, 0.0])}, {"w": torch.tensor([4.0, 0.0])}]
    merged, ratios = model_stock(anchor, models)
    assert ratios == {"w": 1.0}
    assert merged["w"].tolist() == [3.0, 0.0]
    merged, ratios = model_stock(anchor, [models[0], {"w": torch.tensor([0.0, 4.0])}])
    assert ratios == {"w": 0.0}
    assert torch.equal(merged["w"], anchor["w"])


@pytest.mark.parametrize("c", [0.1, 0.5, 0.9])
def test_the_ratio_of_two_is_two_c_over_one_plus_c(c):
    """Formula of the paper for two models, and plain arithmetic for the merge."""
    anchor, models = at_cosine(c)
    merged, ratios = model_stock(anchor, models)
    t = 2 * c / (1 + c)
    assert ratios["w"] == pytest.approx(t, rel=1e-12)
    plain = t * (models[0]["w"] + models[1]["w"]) / 2 + (1 - t) * anchor["w"]
    torch.testing.assert_close(merged["w"], plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_it_finds_the_point_of_the_line_that_is_nearest_to_the_centre(k):
    """Models are a centre plus noise of one length, orthogonal to each other and to the centre (the derivation)."""
    axes = torch.linalg.qr(torch.randn(9, k + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(k)))[0].T
    anchor = torch.arange(9.0, dtype=torch.float64)
    centre = anchor + 3 * axes[0]
    models = [centre + 2 * axis for axis in axes[1:]]
    line = sum(models) / k - anchor
    nearest = anchor + (torch.dot(centre - anchor, line) / line.square().sum()) * line
    merged, _ = model_stock({"w": anchor}, [{"w": model} for model in models])
    torch.testing.assert_close(merged["w"], nearest, rtol=0, atol=1e-10)


def test_equal_models_give_that_model():
    """Float32 modules, BatchNorm included; the anchor plays no part."""
    model = make_model(2)
    merged, _ = model_stock(make_model(1), [model, copy.deepcopy(model)])
    for name, tensor in merged.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=1e-6, atol=0)


def test_the_ratio_does_not_depend_on_the_size_of_the_differences_or_the_order():
    """All differences times 1e-6 to 1e3; three models in six orders."""
    expected = model_stock(*at_cosine(0.3))[1]["w"]
    for scale in (1e-6, 1e3):
        assert model_stock(*at_cosine(0.3, scale))[1]["w"] == pytest.approx(expected, rel=1e-6)
    models = [make_model(seed) for seed in (2, 3, 4)]
    merged, ratios = model_stock(make_model(1), models)
    for order in itertools.permutations(models):
        again, found = model_stock(make_model(1), order)
        assert found == pytest.approx(ratios, rel=1e-10)
        for name, tensor in again.state_dict().items():
            if tensor.is_floating_point():
                torch.testing.assert_close(tensor, merged.state_dict()[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("c", [-1.0, -0.999999, -0.5, -1e-9])
def test_opposite_models_give_the_anchor(c):
    """The formula is negative there and has its pole at -1."""
    merged, ratios = model_stock(*at_cosine(c))
    assert ratios["w"] == 0.0
    assert torch.equal(merged["w"], at_cosine(c)[0]["w"])


def test_what_nobody_trained_stays_the_anchors():
    """Zero differences, one-sided ones, and a mask of -inf; integers come from the first model."""
    mask = torch.full((2, 2), -math.inf).triu(1)
    w = torch.tensor([0.1, 0.2])
    anchor = {"still": w, "half": w, "mask": mask, "count": torch.tensor(0)}
    models = [
        {"still": w, "half": w + 1, "mask": mask, "count": torch.tensor(7)},
        {"still": w, "half": w, "mask": mask, "count": torch.tensor(9)},
    ]
    merged, ratios = model_stock(anchor, models)
    assert ratios == {"still": 0.0, "half": 0.0, "mask": 0.0}
    assert all(torch.equal(merged[name], anchor[name]) for name in ratios)
    assert merged["count"].item() == 7
    rows = [{"w": torch.tensor([0.0, x, -math.inf])} for x in (0.0, 2.0, 4.0)]
    assert model_stock(rows[0], rows[1:])[0]["w"].tolist() == [0.0, 3.0, -math.inf]


def test_a_scalar_gets_the_mean_or_the_anchor():
    """A logit scale has a cosine of 1 or -1 only."""
    scale = torch.tensor(4.6)
    merged, _ = model_stock({"s": scale}, [{"s": scale + 0.1}, {"s": scale + 0.3}])
    assert merged["s"].item() == pytest.approx(4.8)
    merged, _ = model_stock({"s": scale}, [{"s": scale + 0.1}, {"s": scale - 0.3}])
    assert merged["s"].item() == scale.item()


def test_sixteen_bit_weights_are_compared_in_float64():
    """A million small differences, whose sum of squares half precision does not hold."""
    generator = torch.Generator().manual_seed(0)
    anchor = torch.zeros(1_000_000, dtype=torch.bfloat16)
    models = [torch.randn(1_000_000, generator=generator).add(1).bfloat16() for _ in range(2)]
    _, ratios = model_stock({"w": anchor}, [{"w": model} for model in models])
    assert ratios["w"] == pytest.approx(2 / 3, abs=3e-3)  # cosine 1/2 in expectation


def test_mistakes_are_refused():
    """One model, mixed kinds, another architecture."""
    model = nn.Linear(2, 2)
    with pytest.raises(ArgumentError, match="at least two models; got 1"):
        model_stock(model, [model])
    with pytest.raises(ArgumentError, match="must all be modules or all be state dicts"):
        model_stock(model, [model, {}])
    with pytest.raises(StateError, match=r"in `models\[1\]`"):
        model_stock(model, [model, nn.Linear(2, 3)])
