"""Lipsum-FT's energy gap, against a plain loop and its closed forms."""

import pytest
import torch

from tests.losses.pairs import random_pairs
from tracerft.errors import ShapeError
from tracerft.losses import energy_gap

SCALE = torch.tensor(20.0, dtype=torch.float64)


def _rows(seed: int, num: int = 5) -> torch.Tensor:
    return random_pairs(seed, num=num).image.detach()


def test_equals_a_plain_loop_and_the_matrix_form():
    """Both 1/(2MN) sum (s v.w - s v0.w)^2 and s^2/(2MN) ||(V - V0) W^T||_F^2."""
    v, v0, w = _rows(0), _rows(1), _rows(2, num=3)
    expected = 0.0
    for mine, theirs in zip(v.tolist(), v0.tolist(), strict=True):
        for text in w.tolist():
            energies = [20.0 * sum(a * b for a, b in zip(image, text, strict=True)) for image in (mine, theirs)]
            expected += (energies[0] - energies[1]) ** 2 / (2 * 3 * 5)
    value = energy_gap(v, v0, w, SCALE).item()
    assert value == pytest.approx(expected, rel=1e-12)
    assert value == pytest.approx(400 / 30 * torch.linalg.norm((v - v0) @ w.T).item() ** 2, rel=1e-12)


def test_has_its_closed_form_gradient_for_the_student_alone():
    """s^2/(MN) (V - V0) W^T W; scale, texts and pretrained images are fixed."""
    v, v0, w = _rows(0).requires_grad_(), _rows(1).requires_grad_(), _rows(2, num=3).requires_grad_()
    scale = SCALE.clone().requires_grad_()
    energy_gap(v, v0, w, scale).backward()
    closed = 400 / 15 * (v - v0) @ w.T @ w
    torch.testing.assert_close(v.grad, closed.detach(), rtol=1e-12, atol=1e-12)
    assert v0.grad is w.grad is scale.grad is None


def test_is_zero_without_gradient_where_nothing_changed():
    """At theta_0."""
    v = _rows(0).requires_grad_()
    value = energy_gap(v, v.detach(), _rows(2), SCALE)
    value.backward()
    assert value.item() == v.grad.abs().max().item() == 0.0


def test_reaches_its_bound_and_is_float32_inside_autocast():
    """Opposite images, all texts along them: (2 s)^2 / 2."""
    v = torch.tensor([[1.0, 0.0]])
    with torch.autocast("cpu", torch.bfloat16):
        value = energy_gap(v, -v, torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor(101.0))
    assert value.dtype == torch.float32
    assert value.item() == 2 * 101.0**2


def test_misuse_is_explained_in_one_line():
    """Images of two batches, texts of another width."""
    for v0, w, text in [(_rows(1, num=4), _rows(2), "same batch"), (_rows(1), _rows(2)[:, :3], "`texts` must be")]:
        with pytest.raises(ShapeError, match=text) as caught:
            energy_gap(_rows(0), v0, w, SCALE)
        assert "\n" not in str(caught.value)
