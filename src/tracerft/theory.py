"""Closed forms of the linear model: where each regulariser lands, and how fast a moving teacher gets there.

Everything in float64. Knows no kernel: the teacher's update weights omega_t are passed in. Throughout, the
arguments `initial`, `features`, `targets` are W_0, X, Y and `lam` >= 0, in the shapes of the legend; matrices that
do not fit raise `ShapeError`, numbers out of range `ArgumentError`.

Legend: n pairs, p embedding size, d_I image features; X (d_I, n) image features, one example a column;
W (p, d_I) image encoder, W_0 its start; Y (p, n) targets, Y_FT of Definition 3.1; C = X X^T; A^+ pseudoinverse;
P (d_I, d_I) projector onto range(X), the task subspace; W* = Y X^T C^+; lam the strength lambda, a = lam / (1 + lam);
omega_t weight of student t in the teacher's update; E^t = (W_Teacher^t - W*) P.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tracerft.errors import ArgumentError, ShapeError


@dataclass(frozen=True)
class LinearStep:
    """State of the linear recursion after step t; all ``(p, d_I)``."""

    student: Tensor  # W_I^t
    teacher: Tensor  # W_Teacher^t
    student_error: Tensor  # (W_I^t - W*) P
    teacher_error: Tensor  # E^t


def target_matrix(text_weights: Tensor, text_features: Tensor) -> Tensor:
    """Contrastive targets Y_FT = W_T X_T (n I - J), fixed while the text encoder is frozen (Def. 3.1).

    Args:
        text_weights: W_T, ``(p, d_T)``.
        text_features: X_T, ``(d_T, n)``.

    Returns:
        ``(p, n)`` float64; its rows sum to 0.

    Raises:
        ShapeError: if the two do not multiply.
    """
    if text_weights.ndim != 2 or text_features.ndim != 2 or text_weights.shape[1] != text_features.shape[0]:
        raise ShapeError(
            f"`text_features` must be (d_T, n) for `text_weights` (p, d_T); got {tuple(text_features.shape)} and "
            f"{tuple(text_weights.shape)}; put one example in each column"
        )
    embedded: Tensor = text_weights.double() @ text_features.double()
    return embedded.shape[1] * embedded - embedded.sum(dim=1, keepdim=True)


def range_projector(features: Tensor) -> Tensor:
    """Projector P = X (X^T X)^+ X^T onto the task subspace; ``(d_I, d_I)`` float64 from ``(d_I, n)``."""
    # X X^+ is the same matrix without squaring the condition number.
    projector: Tensor = features.double() @ torch.linalg.pinv(features.double())
    return projector


def task_solution(features: Tensor, targets: Tensor) -> Tensor:
    """Minimum-norm solution W* = Y X^T C^+ = Y X^+ of the task; ``(p, d_I)`` float64 (Theorem 3.2)."""
    solution: Tensor = targets.double() @ torch.linalg.pinv(features.double())
    return solution


def direct_ft(initial: Tensor, features: Tensor, targets: Tensor) -> Tensor:
    """Where plain gradient descent lands: W_0 (I - P) + W* (Theorem 3.2)."""
    return static_sd(initial, features, targets, 0.0)


def l2_sp_solution(initial: Tensor, features: Tensor, targets: Tensor, lam: float) -> Tensor:
    """Minimum with (lam/2) ||W - W_0||_F^2 added: (Y X^T + lam W_0)(C + lam I)^{-1} (Theorem 3.2).

    Returns:
        ``(p, d_I)``; for lam towards 0 `direct_ft`, towards infinity W_0 (C.4).

    Raises:
        ArgumentError: if lam is not a finite number > 0.
    """
    _check_strength(lam)
    if lam == 0:
        raise ArgumentError("`lam` must be > 0 for L2-SP, the matrix is singular at 0; got 0; use direct_ft")
    initial, features, targets = _checked(initial, features, targets)
    regularised = features @ features.T + lam * torch.eye(len(features), dtype=torch.float64)
    solution: Tensor = torch.linalg.solve(regularised, targets @ features.T + lam * initial, left=False)
    return solution


def static_sd(initial: Tensor, features: Tensor, targets: Tensor, lam: float) -> Tensor:
    """Minimum with (lam/2) ||W X - W_0 X||_F^2 added: W_0 (I - P/(1+lam)) + W*/(1+lam) (Theorem 3.2).

    Returns:
        ``(p, d_I)``; in the task subspace it is off W* by a (W_0 P - W*), for any lam.
    """
    return wma_step(initial, initial, features, targets, lam)


def wma_step(student: Tensor, teacher: Tensor, features: Tensor, targets: Tensor, lam: float) -> Tensor:
    """One fully solved step against a moving teacher: W (I - P) + a W_Teacher P + W*/(1+lam) (Prop. C.7).

    Returns:
        W_I^t ``(p, d_I)``, from W_I^{t-1} `student` and W_Teacher^{t-1} `teacher`.
    """
    _check_strength(lam)
    student, features, targets = _checked(student, features, targets)
    teacher = _checked(teacher, features, targets)[0]
    return _step(student, teacher, range_projector(features), task_solution(features, targets), lam)


def linear_wma_run(
    initial: Tensor, features: Tensor, targets: Tensor, omegas: Sequence[float], lam: float
) -> Iterator[LinearStep]:
    """Student and teacher of Theorem 3.4, step by step; the teacher starts at W_0.

    Yields:
        T + 1 states, t = 0 first, for `omegas` omega_1 ... omega_T in [0, 1].
    """
    _check_strength(lam)
    _check_omegas(omegas)
    initial, features, targets = _checked(initial, features, targets)
    projector, solution = range_projector(features), task_solution(features, targets)
    student, teacher = initial, initial
    error = (initial - solution) @ projector
    yield LinearStep(student, teacher, error, error)
    for omega in omegas:
        student = _step(student, teacher, projector, solution, lam)
        teacher = (1 - omega) * teacher + omega * student
        yield LinearStep(student, teacher, (student - solution) @ projector, (teacher - solution) @ projector)


def error_bound(initial_error: float, omega_min: float, lam: float, steps: int) -> float:
    """Bound (1 - omega_min/(1+lam))^t ||E^0|| on ||E^t||, for omega_t >= omega_min (Cor. C.9).

    Args:
        initial_error: ||E^0||, any norm.
        omega_min: the smallest update weight, in [0, 1].
        lam: strength >= 0.
        steps: t, teacher updates.
    """
    _check_strength(lam)
    _check_omegas([omega_min])
    return float(initial_error * (1 - omega_min / (1 + lam)) ** steps)


def finite_horizon_residual(omegas: Sequence[float], lam: float) -> float:
    """Share of the first error left in the teacher, ||E^T|| / ||E^0|| = prod_k (1 - omega_k/(1+lam)) (Theorem 3.4).

    The student's share is a times that of T - 1 steps; static self-distillation keeps a.

    Args:
        omegas: omega_1 ... omega_T, each in [0, 1].
        lam: strength >= 0.

    Returns:
        In [0, 1]; 0 only in the limit, so at any finite T some bias is left.

    Raises:
        ArgumentError: if lam or an omega is out of range.
    """
    _check_strength(lam)
    _check_omegas(omegas)
    return math.prod(1 - omega / (1 + lam) for omega in omegas)


def persistence_bound(pretrained_weight: float, student: Tensor, initial: Tensor) -> float:
    """Least gap omega_{0|T} ||W_T - W_0||_F between student and teacher on a straight path (Theorem C.6).

    Args:
        pretrained_weight: omega_{0|T}, the share of W_0 in the teacher, in [0, 1].
        student: W_T.
        initial: W_0, the same shape.
    """
    _check_omegas([pretrained_weight])
    return pretrained_weight * float(torch.linalg.vector_norm(student.double() - initial.double()))


def quadratic_descent(
    initial: Tensor,
    features: Tensor,
    targets: Tensor,
    regulariser_gradient: Callable[[Tensor], Tensor] | None = None,
    *,
    curvature: float = 0.0,
    steps: int = 2000,
) -> Tensor:
    """Gradient descent on 1/2 ||W X - Y||_F^2 + R(W) from W_0 (Lemma C.1): the check on the closed forms.

    Takes `steps` steps of size 1 / (||C|| + `curvature`), within Lemma C.1, where `curvature` is the largest of R
    and `regulariser_gradient` maps W to the gradient of R (``None``: R = 0). Returns the last W ``(p, d_I)``.
    """
    weights, features, targets = _checked(initial, features, targets)
    size = 1 / (float(torch.linalg.matrix_norm(features, ord=2)) ** 2 + curvature)
    for _ in range(steps):
        gradient = (weights @ features - targets) @ features.T
        if regulariser_gradient is not None:
            gradient = gradient + regulariser_gradient(weights)
        weights = weights - size * gradient
    return weights


def _step(student: Tensor, teacher: Tensor, projector: Tensor, solution: Tensor, lam: float) -> Tensor:
    # W* P = W*, so the last term needs no projector.
    return student - student @ projector + (lam * teacher @ projector + solution) / (1 + lam)


def _check_strength(lam: float) -> None:
    if not (math.isfinite(lam) and lam >= 0):
        raise ArgumentError(f"`lam` must be a finite number >= 0; got {lam!r}; use 0 for no regulariser")


def _check_omegas(omegas: Sequence[float]) -> None:
    for omega in omegas:
        if not 0 <= omega <= 1:
            raise ArgumentError(f"`omegas` must lie in [0, 1]; got {omega!r}; normalise the kernel's weights first")


def _checked(weights: Tensor, features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    shapes = [tuple(t.shape) for t in (weights, features, targets)]
    fits = all(len(s) == 2 for s in shapes) and shapes[0][1] == shapes[1][0]
    if not fits or shapes[2] != (shapes[0][0], shapes[1][1]):
        raise ShapeError(
            "`initial`, `features`, `targets` must be (p, d_I), (d_I, n), (p, n); got "
            f"{', '.join(map(str, shapes))}; put one example in each column"
        )
    return weights.double(), features.double(), targets.double()
