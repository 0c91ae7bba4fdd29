"""The weighted objective: which terms enter, with which weight, and what it reads."""

import itertools

import pytest
import torch

from tests.losses.pairs import LABELS, random_pairs
from tracerft.errors import ArgumentError, ShapeError
from tracerft.losses import (
    TracerLoss,
    contrastive_loss,
    contrastive_relational_distillation,
    cross_kd,
    feature_distillation,
    interactive_contrastive_loss,
    sigmoid_cross_kd,
    sigmoid_interactive_loss,
    sigmoid_loss,
    sigmoid_relational_distillation,
)

NAMES = ["fd", "crd", "icl", "cross_kd"]


def two(dtype=torch.float64):
    """A student and a teacher with different scales."""
    return random_pairs(0, scale=4.0, dtype=dtype), random_pairs(1, scale=6.0, dtype=dtype)


@pytest.mark.parametrize("targets", ["diagonal", "multi_positive", "masked"])
def test_parts_are_the_pure_functions_and_total_their_weighted_sum(targets):
    """Sharing blocks changes no term; targets reach the contrastive term and ICL."""
    student, teacher = two()
    weights = {"fd": 0.5, "crd": 2.0, "icl": 3.0, "cross_kd": 0.25}
    terms = TracerLoss(0.7, **weights, targets=targets)(student, teacher, LABELS)
    expected = {
        "contrastive": contrastive_loss(student, targets, LABELS),
        "fd": feature_distillation(student, teacher),
        "crd": contrastive_relational_distillation(student, teacher),
        "icl": interactive_contrastive_loss(student, teacher, targets, LABELS),
        "cross_kd": cross_kd(student, teacher),
    }
    assert list(terms.parts) == list(expected)
    assert all(torch.equal(terms.parts[name], value) for name, value in expected.items())
    assert not any(part.requires_grad for part in terms.parts.values())
    total = expected["contrastive"] + 0.7 * sum(weights[name] * expected[name] for name in NAMES)
    torch.testing.assert_close(terms.total, total)


def two_sigmoid(dtype=torch.float64):
    """The same with biases."""
    return random_pairs(0, bias=-2.0, dtype=dtype), random_pairs(1, scale=6.0, bias=-3.0, dtype=dtype)


@pytest.mark.parametrize("targets", ["diagonal", "multi_positive", "masked"])
def test_a_bias_chooses_the_sigmoid_form(targets):
    """Same parts, same weights; FD as ever, the others in sigmoid form, from `Embeddings`, tuple and dict."""
    student, teacher = two_sigmoid()
    weights = {"fd": 0.5, "crd": 2.0, "icl": 3.0, "cross_kd": 0.25}
    loss = TracerLoss(0.7, **weights, targets=targets)
    terms = loss(student, teacher, LABELS)
    expected = {
        "contrastive": sigmoid_loss(student, targets, LABELS),
        "fd": feature_distillation(student, teacher),
        "crd": sigmoid_relational_distillation(student, teacher),
        "icl": sigmoid_interactive_loss(student, teacher, targets, LABELS),
        "cross_kd": sigmoid_cross_kd(student, teacher),
    }
    assert list(terms.parts) == list(expected)
    assert all(torch.equal(terms.parts[name], value) for name, value in expected.items())
    total = expected["contrastive"] + 0.7 * sum(weights[name] * expected[name] for name in NAMES)
    torch.testing.assert_close(terms.total, total)
    keys = ("image_features", "text_features", "logit_scale", "logit_bias")
    as_tuples = [(e.image, e.text, e.scale, e.bias) for e in (student, teacher)]
    as_dicts = [dict(zip(keys, values, strict=True)) for values in as_tuples]
    assert torch.equal(loss(*as_tuples, LABELS).total, terms.total)
    assert torch.equal(loss(*as_dicts, LABELS).total, terms.total)


def test_a_sigmoid_student_alone_gets_its_own_loss():
    """Without distillation it is `sigmoid_loss`, and the teacher is not read."""
    student, _ = two_sigmoid(torch.float32)
    assert torch.equal(TracerLoss(sd_weight=0)(student, None).total, sigmoid_loss(student))


def test_scale_and_bias_of_a_sigmoid_student_learn_and_its_teacher_does_not():
    """Gradients reach the student's four tensors only."""
    student, teacher = two_sigmoid()
    TracerLoss()(student, teacher).total.backward()
    assert [t.grad for t in (teacher.image, teacher.text, teacher.scale, teacher.bias)] == [None] * 4
    assert student.scale.grad.abs() > 0
    assert student.bias.grad.abs() > 0


@pytest.mark.parametrize("weights", [{}, {"crd": 0, "icl": 0, "cross_kd": 0}])
def test_softmax_and_sigmoid_models_do_not_mix(weights):
    """A bias on one side only is refused with the cure, whichever terms are on."""
    (plain, _), (student, teacher) = two(), two_sigmoid()
    with pytest.raises(ArgumentError, match=r"`teacher` must have a bias .*; pass the model's logit_bias") as caught:
        TracerLoss(**weights)(student, plain)
    assert "\n" not in str(caught.value)
    with pytest.raises(ArgumentError, match=r"`student` must have a bias .*; got none; pass the model's") as caught:
        TracerLoss(**weights)(plain, teacher)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("switches", list(itertools.product([0.0, 1.0], repeat=4)))
def test_a_term_of_weight_zero_is_absent(switches):
    """All 16 combinations of Table 8 hold exactly the chosen terms."""
    student, teacher = two(torch.float32)
    weights = dict(zip(NAMES, switches, strict=True))
    terms = TracerLoss(**weights)(student, teacher)
    assert list(terms.parts) == ["contrastive", *(name for name in NAMES if weights[name])]
    torch.testing.assert_close(
        terms.total, terms.parts["contrastive"] + 0.9 * sum(terms.parts[n] for n in NAMES if weights[n])
    )


@pytest.mark.parametrize("loss", [TracerLoss(sd_weight=0), TracerLoss(0.9, 0, 0, 0, 0)])
def test_without_distillation_it_is_the_contrastive_loss_bitwise(loss):
    """Value and gradients equal `contrastive_loss`, and the teacher is not read."""
    student, _ = two(torch.float32)
    terms = loss(student, None)
    alone = contrastive_loss(student)
    assert torch.equal(terms.total, alone)
    assert list(terms.parts) == ["contrastive"]
    ours = torch.autograd.grad(terms.total, [student.image, student.text])
    theirs = torch.autograd.grad(alone, [student.image, student.text])
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_the_contrastive_part_does_not_depend_on_distillation():
    """The part is the same number with and without the other terms."""
    student, teacher = two(torch.float32)
    assert torch.equal(TracerLoss()(student, teacher).parts["contrastive"], contrastive_loss(student))


def test_open_clip_outputs_are_read():
    """Tuple, dict and `Embeddings` give the same total."""
    student, teacher = two()
    loss = TracerLoss()
    expected = loss(student, teacher).total
    keys = ("image_features", "text_features", "logit_scale")
    as_tuples = [(e.image, e.text, e.scale) for e in (student, teacher)]
    as_dicts = [dict(zip(keys, values, strict=True)) for values in as_tuples]
    assert torch.equal(loss(*as_tuples).total, expected)
    assert torch.equal(loss(*as_dicts).total, expected)


def test_no_gradient_reaches_the_teacher_and_the_scale_gets_one():
    """The student's scale learns; the teacher's tensors do not."""
    student, teacher = two()
    TracerLoss()(student, teacher).total.backward()
    assert [t.grad for t in (teacher.image, teacher.text, teacher.scale)] == [None, None, None]
    assert student.scale.grad.abs() > 0


def test_autocast_gives_a_float32_total():
    """The total inside bf16 autocast equals the one outside."""
    student, teacher = two(torch.float32)
    outside = TracerLoss()(student, teacher).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = TracerLoss()(student, teacher).total
    assert inside.dtype == torch.float32
    assert torch.equal(inside, outside)


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "0.9", None])
@pytest.mark.parametrize("name", ["sd_weight", *NAMES])
def test_weights_that_make_no_sense_are_refused(name, value):
    """Negative, not finite, or no number: one line with the cure."""
    with pytest.raises(
        ArgumentError, match=f"`{name}` must be a finite number >= 0; got .*; use 0 to switch"
    ) as caught:
        TracerLoss(**{name: value})
    assert "\n" not in str(caught.value)


def test_other_misuse_is_explained():
    """Unknown targets, missing labels, other shapes, a batch of one, unreadable outputs."""
    student, teacher = two()
    with pytest.raises(ArgumentError, match="did you mean 'masked'"):
        TracerLoss(targets="mask")
    with pytest.raises(ArgumentError, match="`labels` must be given"):
        TracerLoss(targets="masked")(student, teacher)
    with pytest.raises(ShapeError, match="embed the same batch with both models"):
        TracerLoss()(student, random_pairs(2, num=4))
    with pytest.raises(ShapeError, match="use a batch size >= 2"):
        TracerLoss()(random_pairs(3, num=1), random_pairs(4, num=1))
    with pytest.raises(ArgumentError, match="cannot read embeddings"):
        TracerLoss()(student, torch.zeros(5, 7))


def test_printing_shows_the_weights():
    """The repr names every weight and the targets."""
    assert repr(TracerLoss(fd=4)) == "TracerLoss(sd_weight=0.9, fd=4, crd=1, icl=1, cross_kd=1, targets='diagonal')"
