"""The distillation terms in sigmoid form against loops, special cases and numeric gradients."""

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from tests.losses.pairs import LABELS, numbers, permuted, random_pairs, tensors
from tests.reference import losses as reference
from tracerft.errors import ArgumentError, ShapeError
from tracerft.losses import (
    sigmoid_cross_kd,
    sigmoid_interactive_loss,
    sigmoid_loss,
    sigmoid_relational_distillation,
)
from tracerft.types import Embeddings

ALL_TARGETS = ["diagonal", "multi_positive", "masked"]
DIVERGENCES = [sigmoid_relational_distillation, sigmoid_cross_kd]
TERMS = [*DIVERGENCES, sigmoid_interactive_loss]


def two(seed, **options):
    """A student and a teacher with different scales and biases."""
    teacher = random_pairs(seed + 100, scale=6.0, bias=-3.0, **options)
    return random_pairs(seed, scale=4.0, bias=-2.0, **options), teacher


@pytest.mark.parametrize(
    ("term", "loop"),
    [(sigmoid_relational_distillation, reference.sigmoid_crd), (sigmoid_cross_kd, reference.sigmoid_cross_kd)],
)
def test_divergences_agree_with_the_loop(term, loop):
    """CRD counts each pair once, CrossKD is halved; each side with its own scale and bias."""
    student, teacher = two(5)
    assert term(student, teacher).item() == pytest.approx(loop(*numbers(student), *numbers(teacher)), abs=1e-10)


@pytest.mark.parametrize("targets", ALL_TARGETS)
def test_interactive_loss_agrees_with_the_loop(targets):
    """Halved, student anchors, scale and bias, teacher keys."""
    student, teacher = two(6)
    (s_image, s_text, scale, bias), (t_image, t_text, *_) = numbers(student), numbers(teacher)
    expected = reference.sigmoid_icl(s_image, s_text, t_image, t_text, scale, bias, targets, LABELS.tolist())
    assert sigmoid_interactive_loss(student, teacher, targets, LABELS).item() == pytest.approx(expected, abs=1e-10)


def test_student_equal_to_teacher_leaves_only_the_contrastive_loss():
    """CRD = CrossKD = 0 with zero gradient, and ICL is the sigmoid loss."""
    pairs = random_pairs(7, bias=-2.0)
    assert sigmoid_relational_distillation(pairs, pairs).item() == 0
    # CrossKD multiplies texts by images where the teacher transposes its block: equal up to rounding.
    assert sigmoid_cross_kd(pairs, pairs).item() == pytest.approx(0, abs=1e-14)
    torch.testing.assert_close(sigmoid_interactive_loss(pairs, pairs), sigmoid_loss(pairs))
    (sigmoid_relational_distillation(pairs, pairs) + sigmoid_cross_kd(pairs, pairs)).backward()
    assert max(t.grad.abs().max() for t in tensors(pairs)) < 1e-14


def test_relational_distillation_is_the_loss_with_soft_targets_less_its_least_value():
    """Why each pair counts once: the same sum over the same N as the sigmoid loss."""
    student, teacher = two(8)
    z_s = student.scale * student.image @ student.text.T + student.bias
    z_t = teacher.scale * teacher.image @ teacher.text.T + teacher.bias
    soft = binary_cross_entropy_with_logits
    excess = (soft(z_s, z_t.sigmoid(), reduction="sum") - soft(z_t, z_t.sigmoid(), reduction="sum")) / 5
    torch.testing.assert_close(sigmoid_relational_distillation(student, teacher), excess)


def test_frozen_text_makes_the_image_half_of_cross_kd_half_of_crd():
    """With the teacher's texts, scale and bias z^{S->T} is z^S, and the text half vanishes."""
    student, teacher = two(9)
    student = Embeddings(student.image, teacher.text, teacher.scale, teacher.bias)
    crd = sigmoid_relational_distillation(student, teacher)
    torch.testing.assert_close(sigmoid_cross_kd(student, teacher), crd / 2)


@pytest.mark.parametrize("targets", ALL_TARGETS)
def test_gradients_of_the_interactive_loss_are_right(targets):
    """Analytic against numeric gradients, scale and bias included."""
    student, teacher = two(10)
    assert torch.autograd.gradcheck(
        lambda *x: sigmoid_interactive_loss(Embeddings(*x), teacher, targets, LABELS), tensors(student)
    )


@pytest.mark.parametrize("term", DIVERGENCES)
def test_gradients_of_the_divergences_are_right(term):
    """Analytic against numeric gradients, scale and bias included."""
    student, teacher = two(11)
    assert torch.autograd.gradcheck(lambda *x: term(Embeddings(*x), teacher), tensors(student))


@pytest.mark.parametrize("term", TERMS)
def test_no_gradient_reaches_the_teacher(term):
    """Nothing of the teacher gets a gradient; all of the student does."""
    student, teacher = two(12)
    term(student, teacher).backward()
    assert [t.grad for t in tensors(teacher)] == [None] * 4
    assert all(t.grad.abs().sum() > 0 for t in tensors(student))


@pytest.mark.parametrize("term", TERMS)
def test_order_of_the_pairs_does_not_matter_to_the_terms(term):
    """Permuting both models' pairs alike leaves the value."""
    (student, teacher), order = two(13), torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(term(permuted(student, order), permuted(teacher, order)), term(student, teacher))


@pytest.mark.parametrize("term", TERMS)
def test_autocast_does_not_lower_the_precision(term):
    """Inside bf16 autocast the value is float32 and equal to the one outside; float64 stays float64."""
    student, teacher = two(15, dtype=torch.float32)
    outside = term(student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = term(student, teacher)
        assert term(*two(15)).dtype == torch.float64
    assert inside.dtype == torch.float32
    assert torch.equal(inside, outside)


def test_sure_answers_keep_their_digits():
    """At SigLIP's logits, near 100 from either end, float32 agrees with float64 and gradients stay finite."""
    student, teacher = two(17, dtype=torch.float32)
    sharp = [Embeddings(p.image, p.text, p.scale.detach() * 25, p.bias.detach() * 8) for p in (student, teacher)]
    exact = [Embeddings(*(t.double() for t in tensors(p))) for p in sharp]
    for term in TERMS:
        value = term(*sharp)
        value.backward(retain_graph=True)
        torch.testing.assert_close(value.double(), term(*exact), rtol=1e-5, atol=1e-6)
    assert torch.isfinite(student.image.grad).all()


def test_small_differences_of_sure_answers_are_not_lost():
    """A pair at logit 12 against 11: p (t - s) + softplus(s) - softplus(t) gives 3.8e-6 in float32, not 4.4e-6."""
    one = torch.ones(1, 1)
    student, teacher = (Embeddings(one, one, torch.tensor(z), torch.tensor(0.0)) for z in (11.0, 12.0))
    expected = reference.bernoulli(12.0, 11.0)
    assert sigmoid_relational_distillation(student, teacher).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("term", TERMS)
def test_misuse_of_two_models_is_explained_in_one_line(term):
    """A missing bias on either side, or another batch in the teacher."""
    student, teacher = two(18)
    plain, cure = random_pairs(19), "must have a bias in the sigmoid form; got bias=None; pass the model's logit_bias"
    for ours, theirs, error, text in [
        (student, plain, ArgumentError, f"`teacher` {cure}"),
        (plain, teacher, ArgumentError, f"`student` {cure}"),
        (student, random_pairs(20, num=4, bias=-2.0), ShapeError, "embed the same batch with both models"),
    ]:
        with pytest.raises(error, match=text) as caught:
            term(ours, theirs)
        assert "\n" not in str(caught.value)
