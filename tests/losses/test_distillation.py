"""The four distillation terms against loops, special cases and numeric gradients."""

import pytest
import torch

from tests.losses.pairs import LABELS, as_lists, permuted, random_pairs
from tests.reference import losses as reference
from tracerft.errors import ShapeError
from tracerft.losses import (
    contrastive_loss,
    contrastive_relational_distillation,
    cross_kd,
    feature_distillation,
    interactive_contrastive_loss,
)
from tracerft.types import Embeddings

TERMS = [
    feature_distillation,
    contrastive_relational_distillation,
    interactive_contrastive_loss,
    cross_kd,
]


def two(seed, **options):
    """A student and a teacher with different scales."""
    return random_pairs(seed, scale=4.0, **options), random_pairs(seed + 100, scale=6.0, **options)


def test_feature_distillation_agrees_with_the_loop():
    """(20): summed over the embedding, averaged over the batch."""
    student, teacher = two(0)
    expected = reference.fd(*as_lists(student)[:2], *as_lists(teacher)[:2])
    assert feature_distillation(student, teacher).item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(
    ("term", "loop"), [(contrastive_relational_distillation, reference.crd), (cross_kd, reference.cross_kd)]
)
def test_divergences_agree_with_the_loop(term, loop):
    """(23) is not halved, (27) is; each side at its own scale."""
    student, teacher = two(1)
    assert term(student, teacher).item() == pytest.approx(loop(*as_lists(student), *as_lists(teacher)), abs=1e-10)


@pytest.mark.parametrize("targets", ["diagonal", "multi_positive", "masked"])
def test_interactive_contrastive_loss_agrees_with_the_loop(targets):
    """(24): halved, student anchors and scale, teacher keys."""
    student, teacher = two(2)
    (s_image, s_text, scale), (t_image, t_text, _) = as_lists(student), as_lists(teacher)
    expected = reference.icl(s_image, s_text, t_image, t_text, scale, targets, LABELS.tolist())
    value = interactive_contrastive_loss(student, teacher, targets, LABELS)
    assert value.item() == pytest.approx(expected, abs=1e-10)


def test_student_equal_to_teacher_leaves_only_the_contrastive_loss():
    """FD = CRD = CrossKD = 0, and ICL is half the sum of the two directions, CLIP's mean."""
    pairs = random_pairs(3)
    for term in (feature_distillation, contrastive_relational_distillation):
        assert term(pairs, pairs).item() == 0
    # CrossKD multiplies texts by images where the teacher transposes its block: equal up to rounding.
    assert cross_kd(pairs, pairs).item() == pytest.approx(0, abs=1e-14)
    torch.testing.assert_close(interactive_contrastive_loss(pairs, pairs), contrastive_loss(pairs))


def test_opposite_embeddings_reach_the_upper_end_of_feature_distillation():
    """Unit-norm rows turned around are 4 apart in each tower."""
    pairs = random_pairs(4)
    value = feature_distillation(pairs, Embeddings(-pairs.image, -pairs.text, pairs.scale))
    assert value.item() == pytest.approx(8, abs=1e-12)


def test_frozen_text_makes_the_image_half_of_cross_kd_that_of_crd():
    """With equal texts and scales p^{S->T} is p^S, and the text halves of FD and CrossKD vanish."""
    student, teacher = two(5)
    student = Embeddings(student.image, teacher.text, teacher.scale)
    squares = (student.image - teacher.image).square().sum(1).mean()
    torch.testing.assert_close(feature_distillation(student, teacher), squares)
    log_t = (teacher.scale * teacher.image @ teacher.text.T).log_softmax(1)
    log_s = (student.scale * student.image @ student.text.T).log_softmax(1)
    expected = (log_t.exp() * (log_t - log_s)).sum(1).mean() / 2
    torch.testing.assert_close(cross_kd(student, teacher), expected)


@pytest.mark.parametrize("term", TERMS)
def test_gradients_are_right(term):
    """Analytic against numeric gradients of the student."""
    student, teacher = two(6)
    inputs = (student.image, student.text, student.scale)
    # FD does not read the scale; 0 * s gives gradcheck a gradient of 0 to compare.
    assert torch.autograd.gradcheck(lambda i, t, s: term(Embeddings(i, t, s), teacher) + 0 * s, inputs)


@pytest.mark.parametrize("targets", ["multi_positive", "masked"])
def test_gradients_of_collision_aware_icl_are_right(targets):
    """Analytic against numeric gradients with labels."""
    student, teacher = two(7)
    inputs = (student.image, student.text, student.scale)
    assert torch.autograd.gradcheck(
        lambda i, t, s: interactive_contrastive_loss(Embeddings(i, t, s), teacher, targets, LABELS), inputs
    )


@pytest.mark.parametrize("term", TERMS)
def test_no_gradient_reaches_the_teacher(term):
    """Image, text and scale of the teacher stay without gradient; the student gets one."""
    student, teacher = two(8)
    term(student, teacher).backward()
    assert [t.grad for t in (teacher.image, teacher.text, teacher.scale)] == [None, None, None]
    assert student.image.grad.abs().sum() > 0
    assert student.text.grad.abs().sum() > 0


@pytest.mark.parametrize("term", TERMS)
def test_order_of_the_pairs_does_not_matter(term):
    """Permuting both models' pairs alike leaves the value."""
    (student, teacher), order = two(9), torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(term(permuted(student, order), permuted(teacher, order)), term(student, teacher))


@pytest.mark.parametrize("term", TERMS)
def test_autocast_does_not_lower_the_precision(term):
    """Inside bf16 autocast the term is float32 and equal to the one outside."""
    student, teacher = two(10, dtype=torch.float32)
    outside = term(student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = term(student, teacher)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, outside)


def test_sharp_distributions_stay_finite():
    """At scale 1e4 some probabilities underflow; value and gradient stay finite."""
    student = random_pairs(11, scale=1e4, dtype=torch.float32)
    teacher = random_pairs(12, scale=1e4, dtype=torch.float32)
    value = contrastive_relational_distillation(student, teacher) + cross_kd(student, teacher)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.image.grad).all()


@pytest.mark.parametrize("term", TERMS)
def test_different_shapes_are_explained_in_one_line(term):
    """Another batch or width in the teacher is refused with a cure."""
    student = random_pairs(13)
    for teacher in (random_pairs(14, num=4), random_pairs(15, width=6)):
        with pytest.raises(ShapeError, match=r"`teacher` must have the student's image shape \(5, 7\)") as caught:
            term(student, teacher)
        assert "\n" not in str(caught.value)
