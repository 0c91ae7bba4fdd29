"""Contrastive loss against a loop, open_clip and closed values."""

import math

import open_clip
import pytest
import torch

from tests.losses.pairs import LABELS, as_lists, permuted, random_pairs
from tests.reference import losses as reference
from tracerft.errors import ArgumentError, ShapeError
from tracerft.losses import contrastive_loss
from tracerft.types import Embeddings

ALL_TARGETS = ["diagonal", "multi_positive", "masked"]


@pytest.mark.parametrize("targets", ALL_TARGETS)
def test_agrees_with_the_loop(targets):
    """Each kind of targets equals its plain-Python reference."""
    pairs = random_pairs(0)
    expected = reference.info_nce(*as_lists(pairs), targets, LABELS.tolist())
    assert contrastive_loss(pairs, targets, LABELS).item() == pytest.approx(expected, abs=1e-10)


def test_agrees_with_open_clip():
    """With diagonal targets it is CLIP's own loss."""
    pairs = random_pairs(1, num=16, width=8, scale=100.0, dtype=torch.float32)
    expected = open_clip.ClipLoss()(pairs.image, pairs.text, pairs.scale)
    torch.testing.assert_close(contrastive_loss(pairs), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num", [2, 8])
def test_orthonormal_batch_has_a_closed_value(num):
    """Matching orthonormal rows give log(1 + (N - 1) exp(-scale))."""
    eye = torch.eye(num, dtype=torch.float64)
    value = contrastive_loss(Embeddings(eye, eye, torch.tensor(3.0, dtype=torch.float64)))
    assert value.item() == pytest.approx(math.log1p((num - 1) * math.exp(-3.0)), abs=1e-12)


@pytest.mark.parametrize("targets", ["multi_positive", "masked"])
def test_distinct_labels_give_the_diagonal(targets):
    """Without collisions all targets agree."""
    pairs = random_pairs(2)
    torch.testing.assert_close(
        contrastive_loss(pairs, targets, torch.arange(5)), contrastive_loss(pairs), rtol=0, atol=1e-12
    )


def test_equal_texts_pull_no_image_away_when_masked():
    """Two pairs of one caption repel each other under diagonal targets, not under masked ones."""
    text = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    pairs = Embeddings(text.clone().requires_grad_(), text, torch.tensor(10.0, dtype=torch.float64))
    assert contrastive_loss(pairs).item() == pytest.approx(math.log(2))
    masked = contrastive_loss(pairs, "masked", torch.zeros(2, dtype=torch.long))
    masked.backward()
    assert masked.item() == 0
    assert torch.equal(pairs.image.grad, torch.zeros(2, 2, dtype=torch.float64))


@pytest.mark.parametrize("targets", ALL_TARGETS)
def test_gradients_are_right(targets):
    """Analytic against numeric gradients, scale included."""
    pairs = random_pairs(3)
    assert torch.autograd.gradcheck(
        lambda i, t, s: contrastive_loss(Embeddings(i, t, s), targets, LABELS), (pairs.image, pairs.text, pairs.scale)
    )


@pytest.mark.parametrize("targets", ALL_TARGETS)
def test_order_of_the_pairs_does_not_matter(targets):
    """Permuting pairs and labels together leaves the value."""
    pairs, order = random_pairs(4), torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(
        contrastive_loss(permuted(pairs, order), targets, LABELS[order]), contrastive_loss(pairs, targets, LABELS)
    )


@pytest.mark.parametrize("targets", ALL_TARGETS)
def test_autocast_does_not_lower_the_precision(targets):
    """Inside bf16 autocast the loss is float32 and equal to the one outside."""
    pairs = random_pairs(5, scale=100.0, dtype=torch.float32)
    outside = contrastive_loss(pairs, targets, LABELS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = contrastive_loss(pairs, targets, LABELS)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, outside)


def test_half_precision_embeddings_give_a_float32_loss():
    """A tower that runs in bf16 still gets a float32 loss, near the exact one."""
    exact = random_pairs(6)
    pairs = Embeddings(exact.image.bfloat16(), exact.text.bfloat16(), exact.scale.float())
    value = contrastive_loss(pairs)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(contrastive_loss(exact).item(), rel=1e-2)


def test_scale_of_shape_one_is_read():
    """open_clip versions that keep the scale as (1,) give the same scalar."""
    pairs = random_pairs(7)
    value = contrastive_loss(Embeddings(pairs.image, pairs.text, pairs.scale.reshape(1)))
    assert value.shape == ()
    assert torch.equal(value, contrastive_loss(pairs))


@pytest.mark.parametrize(
    ("targets", "labels", "error", "text"),
    [
        ("masked", None, ArgumentError, "pass batch.caption_ids or targets='diagonal'"),
        ("multi_positive", None, ArgumentError, "`labels` must be given with targets='multi_positive'"),
        ("multi_positives", None, ArgumentError, "did you mean 'multi_positive'"),
        ("masked", torch.zeros(5), ArgumentError, "`labels` must be integer ids; got torch.float32"),
        ("masked", torch.zeros(4, dtype=torch.long), ShapeError, r"shape \(5,\), one id a pair; got \(4,\)"),
    ],
)
def test_misuse_of_targets_is_explained_in_one_line(targets, labels, error, text):
    """Argument, expectation, what came and the cure, on one line."""
    with pytest.raises(error, match=text) as caught:
        contrastive_loss(random_pairs(8), targets, labels)
    assert "\n" not in str(caught.value)


def test_misuse_of_shapes_is_explained_in_one_line():
    """A batch of one and unpaired towers are refused with a cure."""
    pairs = random_pairs(9)
    with pytest.raises(ShapeError, match="use a batch size >= 2"):
        contrastive_loss(Embeddings(pairs.image[:1], pairs.text[:1], pairs.scale))
    with pytest.raises(ShapeError, match="got 5 images and 3 texts"):
        contrastive_loss(Embeddings(pairs.image, pairs.text[:3], pairs.scale))
