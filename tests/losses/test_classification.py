"""Cross-entropy and logit distillation against plain loops, torch's own losses and closed-form gradients."""

import math

import pytest
import torch

from tracerft.errors import ArgumentError, ShapeError
from tracerft.losses import cross_entropy, logit_distillation

LABELS = torch.tensor([0, 2, 1, 2, 0])


def _logits(seed: int, dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(5, 3, generator=generator, dtype=torch.float64).to(dtype)


def _softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(v) for v in row)
    return [math.exp(v) / total for v in row]


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy_equals_a_plain_loop(smoothing):
    """The smoothed target is (1 - e) one-hot + e / C (Szegedy et al. 2016, section 7)."""
    logits = _logits(0)
    expected = 0.0
    for row, label in zip(logits.tolist(), LABELS.tolist(), strict=True):
        target = [smoothing / 3 + (1 - smoothing) * (k == label) for k in range(3)]
        expected -= sum(t * math.log(p) for t, p in zip(target, _softmax(row), strict=True)) / 5
    assert cross_entropy(logits, LABELS, smoothing).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_logit_distillation_equals_a_plain_loop_and_torch(temperature):
    """The teacher is the first argument of the divergence; batchmean, times T squared."""
    student, teacher = _logits(1), _logits(2)
    expected = 0.0
    for z, z0 in zip(student.tolist(), teacher.tolist(), strict=True):
        ours, theirs = _softmax([v / temperature for v in z]), _softmax([v / temperature for v in z0])
        expected += temperature**2 * sum(t * math.log(t / o) for t, o in zip(theirs, ours, strict=True)) / 5
    value = logit_distillation(student, teacher, temperature)
    assert value.item() == pytest.approx(expected, rel=1e-12)
    oracle = torch.nn.KLDivLoss(reduction="batchmean", log_target=True)
    logs = (student / temperature).log_softmax(1), (teacher / temperature).log_softmax(1)
    assert value.item() == pytest.approx(temperature**2 * oracle(*logs).item(), rel=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_logit_distillation_has_its_closed_form_gradient(temperature):
    """T (p_S - p_T) / N for the student, nothing for the teacher."""
    student, teacher = _logits(1).requires_grad_(), _logits(2).requires_grad_()
    logit_distillation(student, teacher, temperature).backward()
    gap = (student.detach() / temperature).softmax(1) - (teacher.detach() / temperature).softmax(1)
    torch.testing.assert_close(student.grad, temperature * gap / 5, rtol=0, atol=1e-12)
    assert teacher.grad is None


def test_equal_logits_give_zero_and_no_gradient():
    """At theta_0 the term is silent."""
    logits = _logits(1).requires_grad_()
    value = logit_distillation(logits, logits.detach(), 2.0)
    value.backward()
    assert value.item() == 0.0
    assert logits.grad.abs().max().item() < 1e-16


def test_both_are_computed_in_float32_inside_autocast_and_survive_large_logits():
    """A probability that underflows contributes nothing; bf16 logits become float32."""
    student, teacher = torch.tensor([[0.0, 500.0]]), torch.tensor([[500.0, 0.0]])
    with torch.autocast("cpu", torch.bfloat16):
        value = logit_distillation(student.bfloat16(), teacher.bfloat16())
        loss = cross_entropy(student.bfloat16(), torch.tensor([0]))
    assert value.dtype == loss.dtype == torch.float32
    assert value.item() == loss.item() == 500.0


def test_misuse_is_explained_in_one_line():
    """Shapes, kinds and ranges."""
    z = torch.zeros(5, 3)
    for call, error, text in [
        (lambda: cross_entropy(z, LABELS[:4]), ShapeError, r"\(4,\); give one class id"),
        (lambda: cross_entropy(z[:0], LABELS[:0]), ShapeError, "N >= 1"),
        (lambda: cross_entropy(z, LABELS.float()), ArgumentError, "integer class ids"),
        (lambda: cross_entropy(z, LABELS, 1.0), ArgumentError, r"`smoothing` must be in \[0, 1\)"),
        (lambda: logit_distillation(z, z[:, :2]), ShapeError, "same batch and classes"),
        (lambda: logit_distillation(z, z, 0.0), ArgumentError, "`temperature` must be above 0"),
    ]:
        with pytest.raises(error, match=text) as caught:
            call()
        assert "\n" not in str(caught.value)
