"""The pairwise sigmoid loss against a loop, open_clip, transformers, closed values and numeric gradients."""

import math

import pytest
import torch
from open_clip.loss import SigLipLoss
from torch.nn.functional import normalize, softplus

from tests.losses.pairs import LABELS, numbers, permuted, random_pairs, tensors
from tests.reference import losses as reference
from tracerft.errors import ArgumentError, ShapeError
from tracerft.losses import contrastive_loss, pair_loss, sigmoid_loss
from tracerft.types import Embeddings

ALL_TARGETS = ["diagonal", "multi_positive", "masked"]


@pytest.mark.parametrize("targets", ALL_TARGETS)
def test_the_pairwise_loss_agrees_with_the_loop(targets):
    """Each kind of targets equals its plain-Python reference."""
    pairs = random_pairs(0, bias=-2.0)
    expected = reference.pairwise(*numbers(pairs), targets, LABELS.tolist())
    assert sigmoid_loss(pairs, targets, LABELS).item() == pytest.approx(expected, abs=1e-10)


def test_the_pairwise_loss_agrees_with_open_clip():
    """With diagonal targets it is open_clip's SigLipLoss, at SigLIP's own start values."""
    pairs = random_pairs(1, num=16, width=8, scale=10.0, bias=-10.0, dtype=torch.float32)
    torch.testing.assert_close(sigmoid_loss(pairs), SigLipLoss()(*tensors(pairs)), rtol=1e-5, atol=1e-6)


def test_the_pairwise_loss_agrees_with_transformers():
    """A tiny SiglipModel's own loss equals ours on its embeddings, scale and bias."""
    transformers = pytest.importorskip("transformers")
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**tower, "vocab_size": 20, "max_position_embeddings": 6, "projection_size": 16}
    config = transformers.SiglipConfig(text_config=text, vision_config={**tower, "image_size": 8, "patch_size": 4})
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = transformers.SiglipModel(config).eval()
        model.logit_scale.fill_(math.log(10.0))
        model.logit_bias.fill_(-10.0)
        ids, pixels = torch.randint(0, 20, (4, 6)), torch.randn(4, 3, 8, 8)
        out = model(input_ids=ids, pixel_values=pixels, return_loss=True)
    image, text = normalize(out.image_embeds, dim=-1), normalize(out.text_embeds, dim=-1)
    ours = sigmoid_loss(Embeddings(image, text, model.logit_scale.exp(), model.logit_bias))
    torch.testing.assert_close(ours, out.loss, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num", [1, 2, 8])
def test_orthonormal_batch_has_a_closed_value(num):
    """Matching orthonormal rows give log(1 + exp(-s - b)) + (N - 1) log(1 + exp(b)); one pair is enough."""
    eye = torch.eye(num, dtype=torch.float64)
    value = sigmoid_loss(Embeddings(eye, eye, torch.tensor(3.0).double(), torch.tensor([-2.0]).double()))
    assert value.item() == pytest.approx(math.log1p(math.exp(-1)) + (num - 1) * math.log1p(math.exp(-2)), abs=1e-12)


def test_equal_texts_pull_no_image_away_when_masked_and_pull_it_near_as_positives():
    """Pair 0 against text 1 of the same caption: pushed off, left alone, or pulled."""
    pairs = random_pairs(2, num=2, bias=0.0)
    same = torch.zeros(2, dtype=torch.long)
    z = pairs.scale * (pairs.image @ pairs.text.T)
    own = softplus(-z.diagonal()).sum() / 2
    torch.testing.assert_close(sigmoid_loss(pairs, "masked", same), own)
    torch.testing.assert_close(sigmoid_loss(pairs, "multi_positive", same), softplus(-z).sum() / 2)


@pytest.mark.parametrize("targets", ["multi_positive", "masked"])
def test_distinct_labels_give_the_diagonal(targets):
    """Without collisions all targets agree."""
    pairs = random_pairs(3, bias=-2.0)
    assert torch.equal(sigmoid_loss(pairs, targets, torch.arange(5)), sigmoid_loss(pairs))


@pytest.mark.parametrize("targets", ALL_TARGETS)
def test_pair_loss_follows_the_bias(targets):
    """With a bias it is the sigmoid loss, without one the softmax loss, bitwise."""
    pairs = random_pairs(4, bias=-2.0)
    without = Embeddings(pairs.image, pairs.text, pairs.scale)
    assert torch.equal(pair_loss(pairs, targets, LABELS), sigmoid_loss(pairs, targets, LABELS))
    assert torch.equal(pair_loss(without, targets, LABELS), contrastive_loss(without, targets, LABELS))


@pytest.mark.parametrize("targets", ALL_TARGETS)
def test_order_of_the_pairs_does_not_matter_to_the_loss(targets):
    """Permuting pairs and labels together leaves the value."""
    pairs, order = random_pairs(14, bias=-2.0), torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(
        sigmoid_loss(permuted(pairs, order), targets, LABELS[order]), sigmoid_loss(pairs, targets, LABELS)
    )


@pytest.mark.parametrize("targets", ALL_TARGETS)
def test_gradients_are_right(targets):
    """Analytic against numeric gradients, scale and bias included."""
    inputs = tensors(random_pairs(10, bias=-2.0))
    assert torch.autograd.gradcheck(lambda *x: sigmoid_loss(Embeddings(*x), targets, LABELS), inputs)


@pytest.mark.parametrize("targets", ALL_TARGETS)
def test_autocast_does_not_lower_the_precision(targets):
    """Inside bf16 autocast the loss is float32 and equal to the one outside; float64 stays float64."""
    pairs = random_pairs(15, bias=-2.0, dtype=torch.float32)
    outside = sigmoid_loss(pairs, targets, LABELS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = sigmoid_loss(pairs, targets, LABELS)
        assert sigmoid_loss(random_pairs(15, bias=-2.0), targets, LABELS).dtype == torch.float64
    assert inside.dtype == torch.float32
    assert torch.equal(inside, outside)


def test_half_precision_embeddings_give_a_float32_loss():
    """A tower that runs in bf16 still gets a float32 loss, near the exact one."""
    exact = random_pairs(16, bias=-2.0)
    value = sigmoid_loss(Embeddings(*(t.bfloat16() for t in tensors(exact))))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(sigmoid_loss(exact).item(), rel=1e-2)


def test_misuse_of_the_loss_is_explained_in_one_line():
    """No bias, a bias an image, unpaired towers, no pair, and targets without labels."""
    pairs = random_pairs(21, bias=-2.0)
    image, text, scale, bias = tensors(pairs)
    for embeddings, error, message in [
        (Embeddings(image, text, scale), ArgumentError, "`embeddings` must have a bias in the sigmoid form"),
        (Embeddings(image, text, scale, torch.zeros(5)), ShapeError, r"one number as its bias; got shape \(5,\)"),
        (Embeddings(image, text[:3], scale, bias), ShapeError, "got 5 images and 3 texts"),
        (Embeddings(image[:0], text[:0], scale, bias), ShapeError, "at least 1 pair; got 0; drop empty batches"),
    ]:
        with pytest.raises(error, match=message) as caught:
            sigmoid_loss(embeddings)
        assert "\n" not in str(caught.value)
    with pytest.raises(ArgumentError, match="`labels` must be given"):
        pair_loss(pairs, "masked")
    with pytest.raises(ArgumentError, match="did you mean 'masked'"):
        pair_loss(pairs, "mask")
