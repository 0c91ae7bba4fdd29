"""Schedule and optimiser."""

import math

import pytest
import torch
from torch import nn

from tracerft.errors import StateError
from tracerft.training.optim import adamw, learning_rate, load_optimizer_tensors, optimizer_tensors


def rate(step, total=100, warmup=10):
    """With a peak of 2."""
    return learning_rate(step, total_steps=total, peak=2.0, warmup_steps=warmup)


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.2), (4, 1.0), (9, 2.0), (10, 2.0), (55, 1.0), (32.5, 1.0 + math.sqrt(0.5)), (100, 0.0)],
)
def test_schedule_has_its_closed_values(step, expected):
    """First step, warm-up half and end, quarter and middle of the cosine, T (hand computation)."""
    assert rate(step) == pytest.approx(expected, abs=1e-12)


def test_schedule_rises_then_falls_and_never_takes_a_step_of_zero():
    """Every one of the T steps has a rate above 0."""
    rates = [rate(k) for k in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert min(rates) > 0


def test_schedule_without_warm_up_starts_at_the_peak():
    """And a warm-up as long as the run never divides by zero."""
    assert rate(0, warmup=0) == 2.0
    assert rate(100, warmup=100) == 2.0


def test_adamw_has_one_group_with_all_that_trains():
    """Gains and biases decay too (the recipe of WiSE-FT and FLYP); frozen parameters are left out."""
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    model[0].weight.requires_grad_(False)
    (group,) = adamw(model, lr=0.1, weight_decay=0.2).param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in (model[0].bias, *model[1].parameters())]
    assert (group["lr"], group["weight_decay"], group["betas"], group["eps"]) == (0.1, 0.2, (0.9, 0.999), 1e-8)


def test_optimizer_tensors_go_out_and_in():
    """A fresh optimiser with the tensors put in takes the same next step to the bit."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = adamw(model, lr=0.1, weight_decay=0.1)
    inputs = torch.randn(4, 3)

    def step(model, optimizer):
        model(inputs).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    step(model, optimizer)
    saved = {n: t.clone() for n, t in optimizer_tensors(model, optimizer).items()}
    assert set(saved) == {f"{n}::{k}" for n in ("weight", "bias") for k in ("exp_avg", "exp_avg_sq", "step")}
    twin = nn.Linear(3, 2)
    twin.load_state_dict(model.state_dict())
    other = adamw(twin, lr=0.1, weight_decay=0.1)
    load_optimizer_tensors(twin, other, saved)
    step(model, optimizer)
    step(twin, other)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_optimizer_tensors_of_a_parameter_that_does_not_train_are_refused():
    """Unfrozen then, frozen now."""
    model = nn.Linear(3, 2)
    model.weight.requires_grad_(False)
    with pytest.raises(StateError, match="'weight', which does not train here"):
        load_optimizer_tensors(model, adamw(model, lr=1, weight_decay=0), {"weight::step": torch.tensor(1.0)})
