"""A teacher against the trajectory that its student took."""

import torch

from tests.reference.averages import beta_log_weights, offline_average


def snapshot(model):
    """The parameters of a model, as copies by name."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_average(teacher, trajectory):
    """The teacher is the arcsine-weighted mean of ``trajectory``, whose first entry is the pretrained state.

    Expected values: the plain float64 loop over Definition 3.3 in `tests.reference`.
    """
    steps = len(trajectory) - 1
    weights = beta_log_weights(0.5, 0.5, steps, 1, "point")
    for name, averaged in teacher.averaged.named_parameters():
        expected, share = offline_average([state[name] for state in trajectory], weights, steps)
        torch.testing.assert_close(averaged.double(), expected, rtol=1e-5, atol=1e-6)
    assert abs(teacher.pretrained_weight - share) < 1e-9
    assert 0.1 < share < 0.5  # theta_0 has kept its share: at T = 6 the first of seven arcsine weights is large


def assert_same(one, other):
    """Two modules hold the same bits."""
    theirs = other.state_dict()
    for name, tensor in one.state_dict().items():
        if torch.is_tensor(tensor):
            assert torch.equal(tensor, theirs[name]), name
