"""Claims about TPGM: a projection onto balls around the anchor, and radii that a loss chooses."""

import copy
import math

import pytest
import torch
from torch import nn

from tests.averaging.test_merge import make_model
from tests.averaging.test_teacher import make_tower
from tracerft.averaging import interpolate, project, tpgm_project, tpgm_radii
from tracerft.averaging.projection import project_tensor
from tracerft.errors import ArgumentError, NonFiniteError, StateError


def pair(dtype=torch.float64):
    """An anchor and a finetuned tensor with a known distance of 5."""
    anchor = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=dtype)
    return anchor, anchor + torch.tensor([[3.0, 0.0], [0.0, -4.0]], dtype=dtype)


def test_between_the_ends_it_is_plain_arithmetic():
    """Distance 5 and radius 2 leave two fifths of the way, by hand."""
    anchor, value = pair()
    expected = torch.tensor([[1 + 1.2, 2.0], [3.0, 4 - 1.6]], dtype=torch.float64)
    torch.testing.assert_close(project_tensor(anchor, value, 2.0), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("radius", [5.0, 5.1, math.inf])
def test_a_radius_beyond_the_distance_changes_nothing_and_zero_gives_the_anchor(radius, dtype):
    """Both to the bit, also where the two are equal from the start."""
    anchor, value = pair(dtype)
    anchor, value = anchor / 3, anchor / 3 + (value - anchor)  # entries that are no round numbers
    assert torch.equal(project_tensor(anchor, value, radius + 1e-5), value)
    assert torch.equal(project_tensor(anchor, value, 0.0), anchor)
    assert torch.equal(project_tensor(value, value, radius), value)


def test_it_is_idempotent_and_brings_no_two_points_further_apart():
    """Random points in and out of the ball; projections onto convex sets do not expand."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        anchor, x, y = torch.randn(3, 4, 3, generator=generator, dtype=torch.float64)
        px, py = project_tensor(anchor, x, 2.5), project_tensor(anchor, y, 2.5)
        assert (px - anchor).norm() <= 2.5 + 1e-12
        assert (px - py).norm() <= (x - y).norm() + 1e-12
        torch.testing.assert_close(project_tensor(anchor, px, 2.5), px, rtol=0, atol=1e-14)


@pytest.mark.parametrize("radius", [2.0, 7.0])
def test_the_gradient_by_the_radius_is_the_slope_along_the_difference_or_nothing(radius):
    """sum(grad (w - w_0)) / n inside the distance, 0 beyond it; by hand against autograd."""
    anchor, value = pair()
    target = torch.tensor([[0.3, -1.0], [2.0, 5.0]], dtype=torch.float64)
    g = torch.tensor(radius, dtype=torch.float64, requires_grad=True)
    projected = project_tensor(anchor, value, g)
    (projected - target).square().sum().backward()
    slope = (2 * (projected.detach() - target) * (value - anchor)).sum() / 5
    assert g.grad.item() == pytest.approx(slope.item() if radius < 5 else 0.0, abs=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_one_ratio_for_all_tensors_is_interpolation(alpha):
    """Radii of alpha times the distance give WiSE-FT, for modules and state dicts."""
    a, b = make_model(1).double(), make_model(2).double()
    starts = dict(a.named_parameters())
    radii = {name: alpha * float((p - starts[name]).detach().norm()) for name, p in b.named_parameters()}
    wise = interpolate(a, b, alpha).state_dict()
    for found in (tpgm_project(a, b, radii).state_dict(), project(a.state_dict(), b.state_dict(), radii)):
        assert found.keys() == wise.keys()
        for name, tensor in found.items():
            expected = wise[name] if name in radii else b.state_dict()[name]
            torch.testing.assert_close(tensor, expected, rtol=0, atol=1e-14)


def test_tensors_without_a_radius_and_both_parents_stay():
    """And 16-bit weights keep their dtype."""
    a, b = make_model(1).bfloat16(), make_model(2).bfloat16()
    before = copy.deepcopy((a.state_dict(), b.state_dict()))
    for found in (
        tpgm_project(a, b, {"0.weight": 0.0}).state_dict(),
        project(a.state_dict(), b.state_dict(), {"0.weight": 0.0}),
    ):
        assert torch.equal(found["0.weight"], before[0]["0.weight"])
        assert all(torch.equal(t, before[1][name]) for name, t in found.items() if name != "0.weight")
        assert found["0.bias"].dtype == torch.bfloat16
        for tensor in found.values():
            tensor.zero_()
    for model, old in zip((a, b), before, strict=True):
        assert all(torch.equal(t, old[name]) for name, t in model.state_dict().items())


def test_a_tied_weight_is_projected_once():
    """Both of its users see the projected tensor."""
    merged = tpgm_project(make_tower(1), make_tower(2), {"first.weight": 0.0})
    assert torch.equal(merged.second.weight, make_tower(1).first.weight)


class Two(nn.Module):
    """Two weights and a third that is never trained."""

    def __init__(self, good, bad):
        super().__init__()
        self.good, self.bad = nn.Parameter(torch.tensor(good)), nn.Parameter(torch.tensor(bad))
        self.still, self.drop = nn.Parameter(torch.ones(2)), nn.Dropout(0.5)

    def answer(self):
        """What no forward gives; dropout would spoil it."""
        return self.drop(torch.cat([self.good, self.bad, self.still]))


def test_radii_open_where_moving_helped_and_close_where_it_hurt():
    """The loss wants `good` as finetuned and `bad` as it was; the untouched weight has no radius."""
    start, end = Two([0.0, 0.0], [0.0, 0.0]), Two([0.3, 0.4], [0.3, 0.4])
    goal = torch.tensor([0.3, 0.4, 0.0, 0.0, 1.0, 1.0])
    before = copy.deepcopy(end.state_dict())
    radii = tpgm_radii(start, end, lambda model: (model.answer() - goal).square().sum())
    assert radii.keys() == {"good", "bad"}
    assert radii["good"] == pytest.approx(0.5, abs=1e-3)  # the whole distance
    assert 0.99e-8 < radii["bad"] < 1e-3
    merged = tpgm_project(start, end, radii)
    torch.testing.assert_close(torch.cat([merged.good, merged.bad]), goal[:4], rtol=0, atol=2e-3)
    assert end.training
    assert end.good.requires_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in end.state_dict().items())


def test_radii_follow_a_plain_loop_of_adam():
    """Closed gradient of a quadratic loss and Adam by hand in float64, from half of the distance on, clipped."""
    start, end = Two([0.0, 0.0], [0.0, 0.0]).double(), Two([0.3, 0.4], [-1.2, 1.6]).double()
    goal = torch.tensor([0.1, 0.2, -3.0, 4.0, 1.0, 1.0], dtype=torch.float64)
    found = tpgm_radii(start, end, lambda model: (model.answer() - goal).square().sum(), steps=60, lr=0.03)
    for name, part, distance in (("good", goal[:2], 0.5), ("bad", goal[2:4], 2.0)):
        direction = dict(end.named_parameters())[name].detach() / distance
        g, first, second = distance / 2, 0.0, 0.0
        for t in range(1, 61):
            slope = float((2 * (g * direction - part) * direction).sum())
            first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
            g -= 0.03 * (first / (1 - 0.9**t)) / (math.sqrt(second / (1 - 0.999**t)) + 1e-8)
            g = min(max(g, 1e-8), distance)
        assert found[name] == pytest.approx(g, rel=1e-6)


def test_mistakes_are_refused():
    """Radii, step counts, models that do not fit or did not move, losses that are not finite."""
    a, b = make_model(1), make_model(2)
    for radius in (-1.0, math.nan):
        with pytest.raises(ArgumentError, match="`radii` must be at least 0"):
            tpgm_project(a, b, {"0.bias": radius})
    for unknown in ("x", "1.num_batches_tracked"):
        with pytest.raises(StateError, match="no floating tensor"):
            project(a.state_dict(), b.state_dict(), {unknown: 1.0})
    with pytest.raises(StateError, match=r"`model` has '0\.weight'"):
        tpgm_project(nn.Sequential(nn.Linear(3, 5)), b, {})
    with pytest.raises(ArgumentError, match="must differ from `anchor`"):
        tpgm_radii(a, a, lambda m: m[0].weight.sum())
    with pytest.raises(ArgumentError, match="`steps`"):
        tpgm_radii(a, b, lambda m: m[0].weight.sum(), steps=0)
    with pytest.raises(ArgumentError, match="`lr`"):
        tpgm_radii(a, b, lambda m: m[0].weight.sum(), lr=0.0)
    with pytest.raises(NonFiniteError, match="at step 1"):
        tpgm_radii(a, b, lambda m: m[0].weight.sum() * math.nan)
