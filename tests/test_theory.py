"""The linear model: closed forms against gradient descent, and the identities of appendix C."""

import math

import pytest
import torch

from tracerft import theory
from tracerft.errors import ArgumentError, ShapeError

LAM = 0.9


@pytest.fixture
def problem():
    """W_0 (4, 10), X (10, 6) of rank 5, Y_FT (4, 6)."""
    generator = torch.Generator().manual_seed(0)

    def normal(rows, columns):
        return torch.randn(rows, columns, generator=generator, dtype=torch.float64)

    left, right = torch.linalg.qr(normal(10, 5)).Q, torch.linalg.qr(normal(6, 5)).Q
    features = left * torch.linspace(1, 2, 5, dtype=torch.float64) @ right.T
    return normal(4, 10), features, theory.target_matrix(normal(4, 3), normal(3, 6))


def pull_to_outputs(features, teacher):
    """Gradient of (lam/2) ||W X - W_Teacher X||^2."""
    return lambda weights: LAM * (weights - teacher) @ features @ features.T


def descend(problem, gradient=None, curvature=0.0):
    """Gradient descent to the minimum."""
    return theory.quadratic_descent(*problem, gradient, curvature=curvature, steps=600)


def test_targets_are_those_of_the_linearised_loss(problem):
    """C.2: sum_{i != j} s_ij - (n - 1) sum_i s_ii = -Tr(Y_FT^T W X), and least squares adds ||W X||^2 / 2 + const."""
    initial, features, _ = problem
    generator = torch.Generator().manual_seed(1)
    text, words = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((4, 3), (3, 6)))
    targets, embedded = theory.target_matrix(text, words), initial @ features
    loss = 0.0
    for i in range(6):
        for j in range(6):
            score = float(embedded[:, i] @ (text @ words)[:, j])
            loss += -5 * score if i == j else score
    assert loss == pytest.approx(-torch.trace(targets.T @ embedded).item(), rel=1e-10)
    squares = 0.5 * (embedded - targets).square().sum()
    assert squares.item() == pytest.approx(
        (0.5 * embedded.square().sum() + 0.5 * targets.square().sum()).item() + loss, rel=1e-10
    )
    torch.testing.assert_close(targets, text @ words @ (6 * torch.eye(6) - torch.ones(6, 6)).double())


def test_projector_projects_onto_the_range(problem):
    """Symmetric, idempotent, keeps X, trace = rank; W* lies inside."""
    _, features, targets = problem
    projector = theory.range_projector(features)
    torch.testing.assert_close(projector, projector.T)
    torch.testing.assert_close(projector @ projector, projector)
    torch.testing.assert_close(projector @ features, features)
    assert torch.trace(projector).item() == pytest.approx(5)
    solution = theory.task_solution(features, targets)
    torch.testing.assert_close(solution @ projector, solution)
    torch.testing.assert_close(solution, targets @ features.T @ torch.linalg.pinv(features @ features.T, rtol=1e-9))


def test_descent_ends_at_each_closed_form(problem):
    """Theorem 3.2: none, L2-SP and static self-distillation."""
    initial, features, _ = problem
    exact = {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(descend(problem), theory.direct_ft(*problem), **exact)
    sp = descend(problem, lambda weights: LAM * (weights - initial), LAM)
    torch.testing.assert_close(sp, theory.l2_sp_solution(*problem, LAM), **exact)
    static = descend(problem, pull_to_outputs(features, initial), 4 * LAM)
    torch.testing.assert_close(static, theory.static_sd(*problem, LAM), **exact)


def test_descent_with_autograd_agrees_too(problem):
    """The same minimum when the gradient comes from the written loss, not from our formula."""
    initial, features, targets = problem
    weights = initial.clone().requires_grad_()
    optimizer = torch.optim.SGD([weights], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        loss = (weights @ features - targets).square().sum() / 2
        (loss + LAM / 2 * ((weights - initial) @ features).square().sum()).backward()
        optimizer.step()
    torch.testing.assert_close(weights.detach(), theory.static_sd(*problem, LAM), rtol=0, atol=1e-6)


def test_moving_teacher_follows_the_recursion(problem):
    """Proposition C.7: each solved step, by descent from the last student against the last teacher."""
    initial, features, targets = problem
    student = teacher = initial
    omegas = [1 / (k + 1) for k in range(1, 9)]
    states = list(theory.linear_wma_run(*problem, omegas, LAM))
    for omega, state in zip(omegas, states[1:], strict=True):
        closed = theory.wma_step(student, teacher, features, targets, LAM)
        student = descend((student, features, targets), pull_to_outputs(features, teacher), 4 * LAM)
        teacher = (1 - omega) * teacher + omega * student
        for ours, theirs in ((student, closed), (student, state.student), (teacher, state.teacher)):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_errors_follow_theorem_3_4(problem):
    """(i), (ii), the kept complement, the residual product and the bound of C.9."""
    initial, features, _ = problem
    omegas = [1 / (k + 1) for k in range(1, 31)]
    states = list(theory.linear_wma_run(*problem, omegas, LAM))
    outside = torch.eye(10, dtype=torch.float64) - theory.range_projector(features)
    first = states[0].teacher_error.norm().item()
    for t, (before, after, omega) in enumerate(zip(states, states[1:], omegas, strict=False), start=1):
        torch.testing.assert_close(after.teacher_error, (1 - omega / (1 + LAM)) * before.teacher_error)
        torch.testing.assert_close(after.student_error, LAM / (1 + LAM) * before.teacher_error)
        torch.testing.assert_close(after.student @ outside, initial @ outside)
        error = after.teacher_error.norm().item()
        assert error == pytest.approx(first * theory.finite_horizon_residual(omegas[:t], LAM))
        assert error <= theory.error_bound(first, min(omegas), LAM, t)


def test_bound_is_reached_by_a_constant_weight(problem):
    """C.9 is an equality for fixed momentum."""
    states = list(theory.linear_wma_run(*problem, [0.1] * 20, LAM))
    first, last = states[0].teacher_error.norm().item(), states[-1].teacher_error.norm().item()
    assert last == pytest.approx(theory.error_bound(first, 0.1, LAM, 20))


def test_static_distillation_keeps_its_bias(problem):
    """Omega = 0 is static self-distillation: the bias a (W_0 P - W*) at any step."""
    last = list(theory.linear_wma_run(*problem, [0.0] * 5, LAM))[-1]
    torch.testing.assert_close(last.student, theory.static_sd(*problem, LAM))
    torch.testing.assert_close(last.student_error, LAM / (1 + LAM) * last.teacher_error)


def test_l2_sp_has_the_limits_of_c_4(problem):
    """Weak: direct finetuning; strong: no finetuning."""
    torch.testing.assert_close(theory.l2_sp_solution(*problem, 1e-8), theory.direct_ft(*problem), rtol=0, atol=1e-6)
    torch.testing.assert_close(theory.l2_sp_solution(*problem, 1e9), problem[0], rtol=0, atol=1e-6)


def test_straight_path_keeps_the_gap_of_theorem_c_6(problem):
    """A running mean of a monotone straight path stays omega_{0|T} behind, and no closer."""
    initial = problem[0]
    direction = torch.ones_like(initial) / initial.numel() ** 0.5
    students = [initial + amount * direction for amount in (0, 2, 2, 2)]
    teacher = sum(students) / 4
    bound = theory.persistence_bound(1 / 4, students[-1], initial)
    assert bound == pytest.approx(0.5)
    # All later students stand at the end, so the bound is reached.
    assert (students[-1] - teacher).norm().item() == pytest.approx(bound)


def test_residual_has_known_values():
    """Nothing moves, everything moves, and the running mean without regulariser keeps 1 / (T + 1)."""
    assert theory.finite_horizon_residual([0.0, 0.0], LAM) == 1
    assert theory.finite_horizon_residual([1.0], 0.0) == 0
    assert theory.finite_horizon_residual([1 / (k + 1) for k in range(1, 100)], 0.0) == pytest.approx(0.01)
    assert theory.finite_horizon_residual([0.5] * 3, 1.0) == pytest.approx(0.75**3)


@pytest.mark.parametrize("lam", [-1.0, math.nan, math.inf])
def test_strength_out_of_range_is_refused(problem, lam):
    """One line, in every form."""
    calls = [
        lambda: theory.static_sd(*problem, lam),
        lambda: theory.l2_sp_solution(*problem, lam),
        lambda: next(theory.linear_wma_run(*problem, [0.5], lam)),
        lambda: theory.finite_horizon_residual([0.5], lam),
        lambda: theory.error_bound(1.0, 0.5, lam, 3),
    ]
    for call in calls:
        with pytest.raises(ArgumentError, match="`lam` must be a finite number >= 0"):
            call()


def test_other_misuse_is_explained(problem):
    """Weights out of range, lam = 0 in L2-SP, matrices that do not fit."""
    initial, features, targets = problem
    with pytest.raises(ArgumentError, match=r"`omegas` must lie in \[0, 1\]; got 1.5"):
        theory.finite_horizon_residual([1.5], LAM)
    with pytest.raises(ArgumentError, match="use direct_ft"):
        theory.l2_sp_solution(*problem, 0)
    with pytest.raises(ShapeError, match=r"got \(4, 10\), \(6, 10\), \(4, 6\)"):
        theory.direct_ft(initial, features.T, targets)
    with pytest.raises(ShapeError, match="one example in each column"):
        theory.target_matrix(torch.ones(4, 3), torch.ones(6, 3))
