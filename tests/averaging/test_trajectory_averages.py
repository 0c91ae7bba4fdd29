"""Averages along one trajectory: each is a convex sum of its snapshots, and what it becomes in special cases."""

import copy
import json
import math

import pytest
import torch

from tests.averaging.test_teacher import STEPS, Vector, trajectory
from tracerft.averaging import (
    LAWA,
    EMATeacher,
    Teacher,
    beta_kernel,
    carot_kernel,
    exponential_kernel,
    swa_kernel,
    uniform_kernel,
)


class Axes(Vector):
    """Snapshot k is the k-th unit vector, so an average shows its weights."""

    def __init__(self, step):
        super().__init__(torch.eye(STEPS + 1, dtype=torch.float64)[step])


MAKERS = {
    "beta": lambda m: Teacher(m, STEPS, beta_kernel(0.5, 0.5)),
    "uniform": lambda m: Teacher(m, STEPS, uniform_kernel(), 3),
    "ema": lambda m: Teacher(m, STEPS, exponential_kernel(0.9)),
    "carot": lambda m: Teacher(m, STEPS, carot_kernel(), 7),
    "swa": lambda m: Teacher(m, STEPS, swa_kernel(0.6), 7),
    "lawa": lambda m: LAWA(m, 4, 7),
}


def run(make, end=STEPS):
    """The weights of all snapshots after ``end`` steps."""
    average = make(Axes(0))
    for step in range(1, end + 1):
        average.update(Axes(step))
    return average.averaged.w.detach()


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("end", [1, 7, 50, STEPS])
def test_every_average_is_a_convex_sum_of_snapshots(name, end):
    """No weight is negative and they sum to 1, at any time of the run."""
    weights = run(MAKERS[name], end)
    assert weights.min() >= 0
    assert weights.sum().item() == pytest.approx(1, abs=1e-12)


def test_carot_is_the_explicit_weighted_sum():
    """Weights (1 - m_k) m_{k+1} m_{k+2} ..., products in a plain loop from the restated schedule."""
    momenta = {k: 0.05 + 0.85 * k / 40 if k < 40 else 0.9 for k in range(7, STEPS + 1, 7)}
    expected = torch.zeros(STEPS + 1, dtype=torch.float64)
    expected[0] = math.prod(momenta.values())
    for k, m in momenta.items():
        expected[k] = (1 - m) * math.prod(later for j, later in momenta.items() if j > k)
    torch.testing.assert_close(run(MAKERS["carot"]), expected, rtol=1e-10, atol=1e-14)
    assert expected.sum().item() == pytest.approx(1)


def test_swa_is_the_equal_mean_of_the_last_part():
    """Snapshots 126, 133, ... 196, from step 120 on; before that the latest one alone."""
    expected = torch.zeros(STEPS + 1, dtype=torch.float64)
    expected[126:197:7] = 1 / 11
    torch.testing.assert_close(run(MAKERS["swa"]), expected, rtol=1e-12, atol=1e-15)
    assert run(MAKERS["swa"], 118).argmax() == 112
    assert run(MAKERS["swa"], 118).max() == 1


def test_swa_of_a_run_whose_last_part_has_no_snapshot_is_the_last_one():
    """Updates every 150 of 200 steps, mean from step 180 on."""
    assert run(lambda m: Teacher(m, STEPS, swa_kernel(0.9), 150))[150] == 1


def test_momentum_one_is_the_pretrained_state_and_zero_the_student():
    """Both to the bit."""
    walk = trajectory()
    for momentum, expected in ((1.0, walk[0]), (0.0, walk[20])):
        teacher = EMATeacher(Vector(walk[0]), momentum)
        for state in walk[1:21]:
            teacher.update(Vector(state))
        assert torch.equal(teacher.averaged.w, expected)


def test_the_gap_to_a_student_that_stopped_falls_to_nothing():
    """By the momentum at each step for an EMA (geometric), and at the published rate for CaRot."""
    for make, factor in ((MAKERS["ema"], 0.9), (lambda m: Teacher(m, STEPS, carot_kernel()), None)):
        average = make(Vector(torch.zeros(1, dtype=torch.float64)))
        gaps = [1.0]
        for _ in range(STEPS):
            average.update(Vector(torch.ones(1, dtype=torch.float64)))
            gaps.append(1 - average.averaged.w.item())
        assert gaps == sorted(gaps, reverse=True)
        assert gaps[-1] < 1e-7
        if factor is not None:
            assert gaps[10] == pytest.approx(factor**10, rel=1e-9)


@pytest.mark.parametrize("name", ["carot", "swa"])
@pytest.mark.parametrize("cut", [3, 60, 150])
def test_schedules_resume_to_the_bit(name, cut):
    """Extra state through JSON, as in a checkpoint."""
    first, second = MAKERS[name](Axes(0)), MAKERS[name](Axes(5))
    for step in range(1, cut + 1):
        first.update(Axes(step))
    state = copy.deepcopy(first.state_dict())
    extra = {key: json.loads(json.dumps(value)) for key, value in state.items() if not torch.is_tensor(value)}
    second.load_state_dict(state | extra)
    for step in range(cut + 1, STEPS + 1):
        second.update(Axes(step))
    assert torch.equal(second.averaged.w, run(MAKERS[name]))
    assert second.pretrained_weight == pytest.approx(second.averaged.w[0].item(), rel=1e-10)
