"""Claims about LAWA: the mean of the last snapshots, its clock, and its state."""

import copy

import pytest
import torch

from tests.averaging.test_teacher import STEPS, Vector, make_tower, shake, trajectory
from tracerft.averaging import LAWA
from tracerft.errors import ArgumentError, StateError
from tracerft.training.checkpoint import join_state, split_state


@pytest.mark.parametrize("window", [1, 2, 5])
@pytest.mark.parametrize("every", [1, 7])
def test_it_is_the_plain_mean_of_the_last_snapshots_at_every_step(window, every):
    """Float64 loop over a stored walk; before the first snapshot it is the pretrained model."""
    walk = trajectory()
    student = Vector(walk[0])
    lawa = LAWA(student, window, every)
    for step in range(1, STEPS + 1):
        student.w.data.copy_(walk[step])
        lawa.update(student)
        seen = [walk[k] for k in range(every, step + 1, every)][-window:]
        expected = sum(seen) / len(seen) if seen else walk[0]
        torch.testing.assert_close(lawa.averaged.w.detach(), expected, rtol=0, atol=1e-12)


def test_a_window_of_one_is_the_last_snapshot_to_the_bit():
    """Parameters, statistics, masks and flags of a tower with a tied weight."""
    student = make_tower(1)
    lawa = LAWA(make_tower(0), 1)
    student.seen.fill_(True)
    lawa.update(student)
    for name, tensor in lawa.averaged.state_dict().items():
        assert torch.equal(tensor, student.state_dict()[name]), name


def test_a_student_that_stopped_is_caught_up_with():
    """After a window of equal snapshots nothing older is left."""
    lawa = LAWA(Vector(torch.zeros(3)), 4)
    for value in (5.0, 2.0, 2.0, 2.0, 2.0):
        lawa.update(Vector(torch.full((3,), value)))
    assert torch.equal(lawa.averaged.w, torch.full((3,), 2.0))


def test_sixteen_bit_students_are_averaged_in_float32():
    """Two bfloat16 values whose mean bfloat16 does not hold."""
    lawa = LAWA(Vector(torch.ones(1, dtype=torch.bfloat16)), 2)
    lawa.update(Vector(torch.ones(1, dtype=torch.bfloat16)))
    lawa.update(Vector(torch.full((1,), 1.0078125, dtype=torch.bfloat16)))
    assert lawa.averaged.w.dtype == torch.float32
    assert lawa.averaged.w.item() == 1.00390625


@pytest.mark.parametrize("cut", [1, 5, 9])
def test_a_resumed_average_is_the_unbroken_one_to_the_bit(cut):
    """State through the checkpoint's split and JSON, cut before the first snapshot, between two and later."""

    def run(lawa, start, end):
        for step in range(start, end):
            student = make_tower(0)
            shake(student, step)
            lawa.update(student)

    whole, first, second = (LAWA(make_tower(seed), 3, 2) for seed in (0, 0, 5))
    run(whole, 1, 14)
    run(first, 1, cut + 1)
    tensors, plain = split_state(copy.deepcopy(first.state_dict()))
    second.load_state_dict(join_state(tensors, plain))
    assert torch.equal(second.averaged.first.weight, first.averaged.first.weight)
    run(second, cut + 1, 14)
    assert second.steps == whole.steps == 13
    for name, tensor in whole.averaged.state_dict().items():
        assert torch.equal(second.averaged.state_dict()[name], tensor), name


def test_the_average_trains_nothing_and_stays_in_eval_mode():
    """No gradient, no BatchNorm update, no alias of the student."""
    student = make_tower(1).train()
    lawa = LAWA(student, 2)
    lawa.update(student)
    assert not lawa.averaged.training
    assert not any(parameter.requires_grad for parameter in lawa.averaged.parameters())
    before = lawa.averaged.first.weight.clone()
    with torch.no_grad():
        student.first.weight.add_(1)
    assert torch.equal(lawa.averaged.first.weight, before)


def test_mistakes_are_refused():
    """Windows, frequencies, other models, other saved settings."""
    model = Vector(torch.zeros(2))
    for window in (0, -1, 1.5, True, None):
        with pytest.raises(ArgumentError, match="`window`"):
            LAWA(model, window)
    with pytest.raises(ArgumentError, match="`update_every`"):
        LAWA(model, 2, 0)
    with pytest.raises(StateError, match="'w' has shape"):
        LAWA(model, 2, 5).update(Vector(torch.zeros(3)))
    with pytest.raises(StateError, match="window=3"):
        LAWA(model, 2).load_state_dict(LAWA(model, 3).state_dict())
    other = LAWA(Vector(torch.zeros(3)), 2)
    other.update(Vector(torch.zeros(3)))
    with pytest.raises(StateError, match="of another model"):
        LAWA(model, 2).load_state_dict(other.state_dict())
