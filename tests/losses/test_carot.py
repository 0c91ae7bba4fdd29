"""CaRot's distillation against CRD and a plain loop, its orthogonality against closed forms."""

import math

import pytest
import torch

from tests.losses.pairs import as_lists, random_pairs
from tests.reference.losses import logs
from tracerft.errors import ArgumentError, ShapeError
from tracerft.losses import contrastive_relational_distillation, cross_distillation, orthogonality


def _matrix(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _orthonormal(seed: int, width: int, dim: int) -> torch.Tensor:
    """Orthonormal columns ``(width, dim)``."""
    return torch.linalg.qr(_matrix(seed, width, dim)).Q


def _loop(student, teacher) -> float:
    """Both cross-entropies over plain numbers."""
    (s_image, s_text, s_scale), (t_image, t_text, t_scale) = as_lists(student), as_lists(teacher)
    total = 0.0
    for i in range(len(s_image)):
        for anchors in ((s_image[i], s_text, t_image[i], t_text), (s_text[i], s_image, t_text[i], t_image)):
            ours, theirs = logs(anchors[0], anchors[1], s_scale), logs(anchors[2], anchors[3], t_scale)
            total -= sum(math.exp(t) * o for o, t in zip(ours, theirs, strict=True))
    return total / len(s_image)


def test_cross_distillation_equals_a_plain_loop():
    """Summed over the directions, not halved; each model at its own scale."""
    student, teacher = random_pairs(0, scale=4.0), random_pairs(1, scale=9.0)
    assert cross_distillation(student, teacher).item() == pytest.approx(_loop(student, teacher), rel=1e-12)


def test_cross_distillation_is_crd_plus_the_teachers_entropies():
    """Hence the gradients agree, and the teacher gets none."""
    grads = []
    for loss in (cross_distillation, contrastive_relational_distillation):
        student, teacher = random_pairs(0, scale=4.0), random_pairs(1, scale=9.0)
        value = loss(student, teacher)
        value.backward()
        grads.append((value.item(), student.image.grad, student.text.grad, student.scale.grad))
        assert teacher.image.grad is teacher.text.grad is teacher.scale.grad is None
    entropies = _loop(teacher, teacher)
    assert grads[0][0] - entropies == pytest.approx(grads[1][0], rel=1e-12)
    for ours, theirs in zip(grads[0][1:], grads[1][1:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_cross_distillation_is_float32_inside_autocast():
    """log_softmax of bf16 similarities near 100 would be off by halves."""
    student, teacher = (random_pairs(seed, scale=100.0, dtype=torch.float32) for seed in (0, 1))
    with torch.autocast("cpu", torch.bfloat16):
        value = cross_distillation(student, teacher)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(_loop(student, teacher), rel=1e-5)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_orthogonality_has_its_closed_form_gradients(shape):
    """Of the norm 2 P G / ||G||, of its square 4 P G, with G = P^T P - I; transposed for a wide P."""
    for power in (1, 2):
        p = _matrix(0, *shape).requires_grad_()
        orthogonality(p, power).backward()
        tall = p.detach() if shape[0] > shape[1] else p.detach().T
        g = tall.T @ tall - torch.eye(4, dtype=torch.float64)
        closed = 2 * tall @ g / torch.linalg.norm(g) if power == 1 else 4 * tall @ g
        torch.testing.assert_close(p.grad, closed if shape[0] > shape[1] else closed.T, rtol=1e-12, atol=1e-12)
        assert orthogonality(p, power).item() == pytest.approx(torch.linalg.norm(g).item() ** power, rel=1e-12)


def test_orthogonality_has_no_nan_at_its_minimum():
    """P = I exactly: value and gradient 0, for both powers."""
    for power in (1, 2):
        p = torch.eye(5, 3, requires_grad=True)
        value = orthogonality(p, power)
        value.backward()
        assert value.item() == p.grad.abs().max().item() == 0.0


def test_orthogonality_takes_the_smaller_side():
    """A wide matrix with orthonormal rows is orthogonal; its larger Gram matrix stays sqrt(6 - 4) away from I."""
    wide = _orthonormal(1, 6, 4).T
    assert orthogonality(wide).item() < 1e-14
    assert torch.linalg.norm(wide.T @ wide - torch.eye(6)).item() == pytest.approx(math.sqrt(2))


def test_orthogonality_does_not_change_when_the_shared_space_turns():
    """P R for an orthogonal R; P times 2 has G = 3 I."""
    p, r = _matrix(0, 6, 4), _orthonormal(2, 4, 4)
    assert orthogonality(p @ r).item() == pytest.approx(orthogonality(p).item(), rel=1e-12)
    assert orthogonality(2 * _orthonormal(1, 6, 4)).item() == pytest.approx(3 * 2)


def test_orthogonality_is_float32_inside_autocast():
    """A Gram matrix in bf16 would be off by 1 in 256."""
    p = _matrix(0, 6, 4)
    with torch.autocast("cpu", torch.bfloat16):
        value = orthogonality(p.float())
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(orthogonality(p).item(), rel=1e-6)


def test_misuse_is_explained_in_one_line():
    """Powers and shapes."""
    for call, error, text in [
        (lambda: orthogonality(torch.eye(2), 3), ArgumentError, r"`power` must be 1 .* or 2 .*; got 3"),
        (lambda: orthogonality(torch.ones(2)), ShapeError, r"got \(2,\)"),
        (lambda: cross_distillation(random_pairs(0), random_pairs(0, num=4)), ShapeError, "same batch"),
    ]:
        with pytest.raises(error, match=text) as caught:
            call()
        assert "\n" not in str(caught.value)
