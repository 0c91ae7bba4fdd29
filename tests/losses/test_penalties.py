"""Weight-space penalties: values, gradients, precision, misuse."""

import math

import pytest
import torch

from tracerft.errors import ArgumentError, ShapeError
from tracerft.losses import cross_frobenius, l2_sp


def matrix(rows, columns, seed):
    """A seeded fp64 matrix that requires a gradient."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64).requires_grad_()


def test_cross_frobenius_agrees_with_the_loop():
    """Root of the sum over all entries of P_I P_T^T, not squared."""
    image, text = matrix(3, 5, 0), matrix(4, 5, 1)
    squares = [
        math.fsum(a * b for a, b in zip(row, other, strict=True)) ** 2
        for row in image.tolist()
        for other in text.tolist()
    ]
    assert cross_frobenius(image, text).item() == pytest.approx(math.sqrt(math.fsum(squares)), abs=1e-10)


def test_cross_frobenius_of_orthogonal_projections_is_zero_with_a_finite_gradient():
    """At 0 the gradient is 0, not NaN."""
    image = torch.tensor([[1.0, 0.0]], requires_grad=True)
    text = torch.tensor([[0.0, 1.0]], requires_grad=True)
    value = cross_frobenius(image, text)
    value.backward()
    assert value.item() == 0
    assert torch.equal(image.grad, torch.zeros(1, 2))
    assert torch.equal(text.grad, torch.zeros(1, 2))


def test_gradients_are_right():
    """Analytic against numeric gradients of both penalties."""
    assert torch.autograd.gradcheck(cross_frobenius, (matrix(3, 5, 2), matrix(4, 5, 3)))
    anchor = {"w": matrix(3, 2, 4).detach()}
    assert torch.autograd.gradcheck(lambda w: l2_sp({"w": w}, anchor), (matrix(3, 2, 5),))


def test_l2_sp_agrees_with_the_loop_and_matches_by_name():
    """Half the squared distance, whatever the order of the names; unused anchors are not read."""
    first, second = matrix(2, 3, 6), matrix(4, 1, 7)
    anchors = {"frozen": matrix(9, 9, 8), "b": torch.ones(4, 1), "a": torch.zeros(2, 3)}
    squares = [x * x for row in first.tolist() for x in row] + [(x - 1) ** 2 for row in second.tolist() for x in row]
    value = l2_sp({"a": first, "b": second}, anchors)
    assert value.item() == pytest.approx(math.fsum(squares) / 2, abs=1e-10)


def test_l2_sp_is_zero_at_the_start_with_a_zero_gradient():
    """Nothing pulls before the first step."""
    weight = matrix(2, 2, 9)
    value = l2_sp({"w": weight}, {"w": weight.detach().clone()})
    value.backward()
    assert value.item() == 0
    assert torch.equal(weight.grad, torch.zeros(2, 2, dtype=torch.float64))


def test_no_gradient_reaches_the_anchor():
    """An anchor that requires a gradient gets none."""
    weight, anchor = matrix(2, 2, 10), matrix(2, 2, 11)
    l2_sp({"w": weight}, {"w": anchor}).backward()
    assert anchor.grad is None


def test_penalties_are_float32_for_half_precision_and_inside_autocast():
    """bf16 weights that differ by less than a bf16 sum can hold still add up."""
    weight = torch.full((4096,), 1.0, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        distance = l2_sp({"w": weight}, {"w": torch.zeros(4096)})
        norm = cross_frobenius(torch.ones(3, 5), torch.ones(4, 5))
    assert distance.dtype == norm.dtype == torch.float32
    assert distance.item() == 2048
    assert norm.item() == pytest.approx(5 * math.sqrt(12), rel=1e-6)


def test_misuse_is_explained_in_one_line():
    """Names, shapes and orientation."""
    weight = {"visual.proj": torch.ones(2, 2)}
    for call, error, text in [
        (lambda: l2_sp(weight, {"visual.prof": torch.ones(2, 2)}), ArgumentError, "did you mean 'visual.prof'"),
        (lambda: l2_sp(weight, {"visual.proj": torch.ones(3)}), ShapeError, r"its anchor \(3,\)"),
        (lambda: l2_sp({}, weight), ArgumentError, "unfreeze a part"),
        (lambda: cross_frobenius(torch.ones(5, 3), torch.ones(4, 5)), ShapeError, "transpose the weight"),
        (lambda: cross_frobenius(torch.ones(5), torch.ones(4, 5)), ShapeError, "transpose the weight"),
    ]:
        with pytest.raises(error, match=text) as caught:
            call()
        assert "\n" not in str(caught.value)
