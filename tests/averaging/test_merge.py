"""Claims about interpolation: exact ends, plain arithmetic, refusals."""

import copy
import math

import pytest
import torch
from torch import nn

from tracerft.averaging.merge import interpolate
from tracerft.errors import ArgumentError, StateError


def make_model(seed):
    """A linear layer and BatchNorm with random weights and statistics."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator))
        else:
            tensor.fill_(seed)
    return model


@pytest.mark.parametrize("alpha", [0, 1, 0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_ends_are_exact_to_the_bit(alpha, dtype):
    """Alpha 0 is `a`, alpha 1 is `b`, for state dicts and modules; integers are those of `b`."""
    a, b = make_model(1).to(dtype), make_model(2).to(dtype)
    expected = (b if alpha else a).state_dict()
    for merged in (interpolate(a.state_dict(), b.state_dict(), alpha), interpolate(a, b, alpha).state_dict()):
        assert merged.keys() == expected.keys()
        for name, tensor in merged.items():
            if tensor.is_floating_point():
                assert torch.equal(tensor, expected[name])
                assert tensor.dtype == dtype
            else:
                assert tensor.item() == 2


@pytest.mark.parametrize("alpha", [0.1, 0.25, 0.5, 0.9])
def test_between_the_ends_it_is_plain_arithmetic(alpha):
    """(1 - alpha) a + alpha b in float64."""
    a, b = make_model(1).double().state_dict(), make_model(2).double().state_dict()
    for name, tensor in interpolate(a, b, alpha).items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, (1 - alpha) * a[name] + alpha * b[name], rtol=0, atol=1e-15)


def test_inputs_are_left_alone_and_results_are_new():
    """Writing into the result changes neither parent, and the result is a module like `b`."""
    a, b = make_model(1), make_model(2)
    before = copy.deepcopy(a.state_dict()), copy.deepcopy(b.state_dict())
    for alpha in (0, 0.5, 1):
        for merged in (interpolate(a, b, alpha).state_dict(), interpolate(a.state_dict(), b.state_dict(), alpha)):
            for tensor in merged.values():
                tensor.zero_()
    for parent, old in ((a, before[0]), (b, before[1])):
        assert all(torch.equal(t, old[n]) for n, t in parent.state_dict().items())


def test_sixteen_bit_weights_are_merged_in_float32():
    """The result is the rounded float32 value, not a value rounded twice on the way."""
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randn(1000, generator=generator).bfloat16() for _ in range(2))
    merged = interpolate({"w": a}, {"w": b}, 0.3)["w"]
    assert torch.equal(merged, torch.lerp(a.float(), b.float(), 0.3).bfloat16())


def test_equal_and_infinite_entries_survive():
    """An attention mask with -inf stays a mask; equal weights stay equal to the bit."""
    mask = torch.full((3, 3), -math.inf).triu(1)
    weights = torch.randn(50, generator=torch.Generator().manual_seed(4))
    state = {"mask": mask, "w": weights}
    for alpha in (0.3, 0.5, 0.7):
        merged = interpolate(state, copy.deepcopy(state), alpha)
        assert torch.equal(merged["mask"], mask)
        assert torch.equal(merged["w"], weights)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan, math.inf, "0.5", None, True])
def test_alpha_outside_zero_to_one_is_refused(alpha):
    """Extrapolation is no interpolation."""
    with pytest.raises(ArgumentError, match=r"`alpha` must be a number in \[0, 1\]; got"):
        interpolate({}, {}, alpha)


def test_different_names_shapes_and_kinds_are_refused():
    """The first offender is named."""
    w, v = torch.zeros(2), torch.zeros(3)
    with pytest.raises(StateError, match="`b` has 'v' but `a` does not"):
        interpolate({"w": w}, {"w": w, "v": v}, 0.5)
    with pytest.raises(StateError, match="`a` has 'v' but `b` does not"):
        interpolate({"w": w, "v": v}, {"w": w}, 0.5)
    with pytest.raises(StateError, match="'w' is "):
        interpolate({"w": w}, {"w": v}, 0.5)
    with pytest.raises(StateError, match="'w' is "):
        interpolate({"w": w.long()}, {"w": w}, 0.5)
    with pytest.raises(ArgumentError, match="must both be modules or both be state dicts"):
        interpolate(nn.Linear(1, 1), {}, 0.5)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.7])
def test_a_linear_model_answers_linearly_in_alpha(alpha):
    """WiSE-FT of one layer is the mixture of both answers, in float64."""
    generator = torch.Generator().manual_seed(5)
    a, b = (nn.Linear(4, 3).double() for _ in range(2))
    for parameter in (*a.parameters(), *b.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    mixture = (1 - alpha) * a(x) + alpha * b(x)
    torch.testing.assert_close(interpolate(a, b, alpha)(x), mixture, rtol=0, atol=1e-14)
