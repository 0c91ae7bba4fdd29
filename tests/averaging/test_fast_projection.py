"""Claims about FTP: its radii against a plain loop, the first step, rows, kappa and state."""

import copy
import math

import pytest
import torch
from torch import nn

from tracerft.averaging import FTP
from tracerft.averaging.fast_projection import row_norms
from tracerft.errors import ArgumentError, StateError
from tracerft.training.checkpoint import join_state, split_state

SHAPES = {"matrix": (3, 4), "kernel": (2, 3, 2, 2), "vector": (5,), "scalar": ()}


def make(seed=0, dtype=torch.float64):
    """Parameters of four ranks, their anchors, and fixed goals of a quadratic loss."""
    generator = torch.Generator().manual_seed(seed)

    def draw(shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    parameters = {name: nn.Parameter(draw(shape)) for name, shape in SHAPES.items()}
    anchors = {name: p.detach().clone() for name, p in parameters.items()}
    return parameters, anchors, {name: draw(shape) for name, shape in SHAPES.items()}


def train(ftp, parameters, goals, steps):
    """Gradient descent on the squared distance to the goals, projected."""
    for _ in range(steps):
        grads = {name: 2 * (p.detach() - goals[name]) for name, p in parameters.items()}
        ftp.observe(grads)
        with torch.no_grad():
            for name, p in parameters.items():
                p -= 0.05 * grads[name]
        ftp.project_()


def plain_loop(parameters, anchors, goals, steps, kappa, lr):
    """The same with Python numbers, row by row; weights and radii after each step."""
    flat = {
        name: (
            [[p.item() for p in row.flatten()] for row in t],
            [[p.item() for p in row.flatten()] for row in goals[name]],
        )
        if (t := parameters[name].detach()).ndim > 1
        else ([t.flatten().tolist()], [goals[name].flatten().tolist()])
        for name in parameters
    }
    starts = {name: copy.deepcopy(w) for name, (w, _) in flat.items()}
    found = {}
    for name, (w, goal) in flat.items():
        g, first, second, previous = 1e-8, 0.0, 0.0, None
        for t in range(1, steps + 1):
            grad = [[2 * (x - y) for x, y in zip(*rows, strict=True)] for rows in zip(w, goal, strict=True)]
            slope = 0.0
            if previous is not None:
                for grad_row, (c, n) in zip(grad, previous, strict=True):
                    slope += sum(x * y for x, y in zip(grad_row, c, strict=True)) / n
            slope *= kappa if slope > 0 else 1
            first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
            g -= lr * first / (1 - 0.9**t) / (math.sqrt(second / (1 - 0.999**t)) + 1e-8)
            tentative = [[x - 0.05 * y for x, y in zip(*rows, strict=True)] for rows in zip(w, grad, strict=True)]
            moves = [[x - y for x, y in zip(*rows, strict=True)] for rows in zip(tentative, starts[name], strict=True)]
            previous = [(c, sum(map(abs, c))) for c in moves]
            g = min(max(g, 1e-8), max(n for _, n in previous))
            w = [
                [x + min(1.0, g / n) * y for x, y in zip(start, c, strict=True)]
                for start, (c, n) in zip(starts[name], previous, strict=True)
            ]
        found[name] = (torch.tensor(w, dtype=torch.float64).flatten(), g)
    return found


@pytest.mark.parametrize("kappa", [1.0, 0.3, 0.0])
def test_weights_and_radii_follow_a_plain_loop(kappa):
    """Matrix, convolution kernel, vector and scalar, after 1, 2 and 40 steps; radii rise and later fall."""
    for steps in (1, 2, 40):
        parameters, anchors, goals = make()
        expected = plain_loop(parameters, anchors, goals, steps, kappa, lr=0.05)
        ftp = FTP(parameters, anchors, kappa=kappa, lr=0.05)
        train(ftp, parameters, goals, steps)
        for name, (weights, radius) in expected.items():
            torch.testing.assert_close(parameters[name].detach().flatten(), weights, rtol=1e-9, atol=1e-11)
            assert ftp.radii[name] == pytest.approx(radius, rel=1e-9)


def test_the_first_step_returns_to_the_anchor():
    """To within its radius of 1e-8 in every row."""
    parameters, anchors, goals = make()
    train(FTP(parameters, anchors), parameters, goals, 1)
    for name, p in parameters.items():
        moved = row_norms(p.detach() - anchors[name])
        assert float(moved.max()) <= 1e-8 * (1 + 1e-6)


def test_weights_stay_within_their_radius_and_far_goals_open_it():
    """Every row, at every step; toward a goal in one direction radii grow."""
    parameters, anchors, goals = make()
    ftp = FTP(parameters, anchors)
    for step in range(30):
        train(ftp, parameters, goals, 1)
        for name, p in parameters.items():
            assert float(row_norms(p.detach() - anchors[name]).max()) <= ftp.radii[name] + 1e-12
        assert step < 5 or all(radius > 1e-3 for radius in ftp.radii.values())


def test_a_gradient_that_points_back_shrinks_the_radius_by_kappa():
    """After twenty steps out, gradients that point back; kappa 0 never shrinks, 1 shrinks most."""
    after = {}
    for kappa in (0.0, 0.5, 1.0):
        w = nn.Parameter(torch.zeros(1, 2, dtype=torch.float64))
        ftp = FTP({"w": w}, {"w": w.detach().clone()}, kappa=kappa)
        for sign in (*[-1.0] * 20, *[1.0] * 15):
            ftp.observe({"w": torch.full((1, 2), sign, dtype=torch.float64)})
            with torch.no_grad():
                w.copy_(torch.ones(1, 2))  # the optimiser goes far out, so that only the radius decides
            ftp.project_()
        after[kappa] = ftp.radii["w"]
    assert after[1.0] < after[0.5] < after[0.0]


def test_rows_are_the_first_index_and_a_vector_is_one_row():
    """Shapes, and sums by a loop; a norm over no dimension would be one number per entry."""
    x = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0))
    assert row_norms(x).shape == (2, 1, 1)
    assert row_norms(x)[1].item() == pytest.approx(sum(abs(v) for v in x[1].flatten().tolist()), rel=1e-6)
    assert row_norms(torch.tensor([1.0, -2.0])).item() == 3.0
    assert row_norms(torch.tensor(-2.0)).item() == 2.0


def test_a_tensor_without_gradient_counts_as_zero():
    """Its radius stays, those of the others learn as without it."""
    parameters, anchors, goals = make()
    ftp = FTP(parameters, anchors)
    for _ in range(5):
        grads = {"matrix": 2 * (parameters["matrix"].detach() - goals["matrix"])}
        ftp.observe(grads)
        with torch.no_grad():
            parameters["matrix"] -= 0.05 * grads["matrix"]
        ftp.project_()
    assert ftp.radii["vector"] == 1e-8
    assert ftp.radii["matrix"] > 1e-3
    assert torch.equal(parameters["vector"], anchors["vector"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cut", [1, 7])
def test_a_resumed_run_is_the_unbroken_one_to_the_bit(cut, dtype):
    """State through the checkpoint's split and JSON into an object built on other weights."""
    whole, anchors, goals = make(dtype=dtype)
    train(FTP(whole, anchors), whole, goals, 15)
    parameters, anchors, _ = make(dtype=dtype)
    first = FTP(parameters, anchors)
    train(first, parameters, goals, cut)
    tensors, plain = split_state(copy.deepcopy(first.state_dict()))
    fresh, others, _ = make(seed=9, dtype=dtype)
    second = FTP(fresh, others)
    second.load_state_dict(join_state(tensors, plain))
    for name, p in fresh.items():
        p.data.copy_(parameters[name].data)
    train(second, fresh, goals, 15 - cut)
    for name, p in whole.items():
        assert torch.equal(fresh[name], p), name


def test_anchors_are_copied():
    """Passing the parameters themselves does not tie the anchor to them."""
    w = nn.Parameter(torch.ones(2, 2))
    ftp = FTP({"w": w}, {"w": w.detach()})
    ftp.observe({"w": torch.ones(2, 2)})
    with torch.no_grad():
        w.add_(1)
    ftp.project_()
    torch.testing.assert_close(w.detach(), torch.ones(2, 2), rtol=0, atol=1e-7)


def test_mistakes_are_refused():
    """Ranges, names, shapes, and state of another run."""
    parameters, anchors, _ = make()
    for kappa in (-0.1, 1.1, math.nan):
        with pytest.raises(ArgumentError, match="`kappa`"):
            FTP(parameters, anchors, kappa=kappa)
    with pytest.raises(ArgumentError, match="`lr`"):
        FTP(parameters, anchors, lr=0.0)
    with pytest.raises(ArgumentError, match="at least one tensor"):
        FTP({}, {})
    with pytest.raises(StateError, match="got nothing for 'vector'"):
        FTP(parameters, {name: a for name, a in anchors.items() if name != "vector"})
    with pytest.raises(StateError, match=r"got \(4,\) for 'vector'"):
        FTP(parameters, anchors | {"vector": torch.zeros(4)})
    ftp = FTP(parameters, anchors)
    with pytest.raises(ArgumentError, match="no parameter"):
        ftp.observe({"x": torch.zeros(1)})
    with pytest.raises(StateError, match=r"kappa=0\.5"):
        ftp.load_state_dict(FTP(parameters, anchors, kappa=0.5).state_dict())
    with pytest.raises(StateError, match="nothing"):
        ftp.load_state_dict(FTP({"vector": parameters["vector"]}, anchors={"vector": anchors["vector"]}).state_dict())
