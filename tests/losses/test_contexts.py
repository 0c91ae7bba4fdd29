"""CAR-FT's divergence between distributions over contexts, against a plain loop and its closed-form gradient."""

import math

import pytest
import torch

from tests.losses.pairs import random_pairs
from tracerft.errors import ShapeError
from tracerft.losses import context_kl

SCALE, OTHER = torch.tensor(4.0, dtype=torch.float64), torch.tensor(9.0, dtype=torch.float64)


def _rows(seed: int, num: int = 5) -> torch.Tensor:
    return random_pairs(seed, num=num).image.detach()


def test_equals_a_plain_loop():
    """KL(q_0 || q), each softmax at its own scale."""
    student, teacher, contexts = _rows(0), _rows(1), _rows(2, num=3)
    expected = 0.0
    for mine, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        shares = []
        for image, scale in ((mine, 4.0), (theirs, 9.0)):
            powers = [
                math.exp(scale * sum(a * b for a, b in zip(image, row, strict=True))) for row in contexts.tolist()
            ]
            shares.append([p / sum(powers) for p in powers])
        expected += sum(q0 * math.log(q0 / q) for q, q0 in zip(*shares, strict=True)) / 5
    assert context_kl(student, teacher, contexts, SCALE, OTHER).item() == pytest.approx(expected, rel=1e-12)


def test_gradient_of_a_context_logit_is_the_gap_of_the_distributions():
    """(q - q_0) / N, so s (q - q_0) A / N for the images; pretrained images and contexts get none."""
    student = _rows(0).requires_grad_()
    teacher, contexts = _rows(1).requires_grad_(), _rows(2, num=3).requires_grad_()
    context_kl(student, teacher, contexts, SCALE, OTHER).backward()
    a = contexts.detach()
    gap = (SCALE * student.detach() @ a.T).softmax(1) - (OTHER * teacher.detach() @ a.T).softmax(1)
    torch.testing.assert_close(student.grad, SCALE * gap @ a / 5, rtol=0, atol=1e-12)
    assert teacher.grad is None
    assert contexts.grad is None


def test_no_change_and_a_single_context_give_zero():
    """Zero with zero gradient at theta_0; one context has the probability 1 always."""
    student, contexts = _rows(0).requires_grad_(), _rows(2, num=3)
    value = context_kl(student, student.detach(), contexts, SCALE, SCALE)
    value.backward()
    assert value.item() == 0.0
    assert student.grad.abs().max().item() < 1e-15
    assert context_kl(student, _rows(1), contexts[:1], SCALE, OTHER).item() == 0.0


def test_is_computed_in_float32_inside_autocast():
    """A bf16 student costs precision of its own numbers only."""
    student, teacher, contexts = _rows(0).bfloat16(), _rows(1).bfloat16(), _rows(2, num=3).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = context_kl(student, teacher, contexts, torch.tensor(4.0), torch.tensor(9.0))
    exact = context_kl(student.double(), teacher.double(), contexts.double(), SCALE, OTHER)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)


def test_misuse_is_explained_in_one_line():
    """Images of two batches, contexts of another width."""
    for student, teacher, contexts, text in [
        (_rows(0), _rows(1, num=4), _rows(2), "embed the same batch"),
        (_rows(0), _rows(1), _rows(2)[:, :3], r"`contexts` must be \(K, 7\)"),
        (_rows(0), _rows(1), _rows(2)[:0], "K >= 1"),
    ]:
        with pytest.raises(ShapeError, match=text) as caught:
            context_kl(student, teacher, contexts, SCALE, SCALE)
        assert "\n" not in str(caught.value)
