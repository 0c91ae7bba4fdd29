"""Captions to a classifier."""

import open_clip
import pytest
import torch
import torch.nn.functional as F

from tests.conftest import SMALL
from tracerft.models.tiny import TinyDualEncoder, tokenize
from tracerft.models.zero_shot import zero_shot_head, zero_shot_logits


@pytest.fixture(scope="module")
def clip():
    """An open_clip model of two layers a tower, random."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vision = open_clip.CLIPVisionCfg(layers=2, width=64, patch_size=16, image_size=32, head_width=32)
        text = open_clip.CLIPTextCfg(context_length=77, width=64, heads=2, layers=2)
        return open_clip.CLIP(32, vision, text).eval()


def test_the_head_is_that_of_open_clip(clip):
    """Three classes, two templates, the stock tokenizer."""
    names, templates = ["dog", "cat", "sea lion"], ["a photo of a {}.", "a sketch of a {}."]
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    with torch.no_grad():
        theirs = open_clip.build_zero_shot_classifier(clip, tokenizer, names, templates).T
    ours = zero_shot_head(clip, tokenizer, [[t.format(n) for t in templates] for n in names])
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_logits_use_the_models_own_scale(clip):
    """Not a fixed 100; open_clip's own product is the reference."""
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    head = F.normalize(torch.randn(5, 32, generator=torch.Generator().manual_seed(1)), dim=1)
    with torch.no_grad():
        expected = clip.logit_scale.exp() * clip.encode_image(images, normalize=True) @ head.T
    found = zero_shot_logits(clip, images, head)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert not found.requires_grad


def test_a_logit_bias_is_added():
    """As sigmoid models have it."""
    model = TinyDualEncoder(SMALL)
    images, head = torch.rand(2, 3, 28, 28), torch.eye(SMALL.embed_dim)
    plain = zero_shot_logits(model, images, head)
    model.logit_bias = torch.nn.Parameter(torch.tensor(-3.0))
    torch.testing.assert_close(zero_shot_logits(model, images, head), plain - 3.0)


def test_a_head_of_one_caption_a_class_is_the_text_embedding():
    """Unit norm, and the same caption twice changes nothing."""
    model = TinyDualEncoder(SMALL)
    head = zero_shot_head(model, tokenize, [["a red digit"], ["a blue digit", "a blue digit"]])
    with torch.no_grad():
        text = model.encode_text(tokenize(["a red digit", "a blue digit"]), normalize=True)
    torch.testing.assert_close(head, text)
