"""The zero-shot head by protocol, against open_clip and transformers."""

import math

import open_clip
import pytest
import torch

from tests.models.small import CAPTIONS, OPEN_CLIP, folder, hf_folder, images, stock, transformer
from tracerft import load_model
from tracerft.errors import ArgumentError
from tracerft.models import prefixes
from tracerft.models.zero_shot import encode_captions, zero_shot_head, zero_shot_logits

NAMES = ("cat", "dog", "missile", "number three", "missile")
TEMPLATES = ("a photo of a {}.", "a {}.", "a bad, very dark and far too long picture of one {}.")


def captions():
    """Every template for every class."""
    return [[template.format(name) for template in TEMPLATES] for name in NAMES]


@pytest.mark.parametrize("kind", list(OPEN_CLIP))
def test_head_is_that_of_open_clip(kind):
    """Columns, logits and predictions, with prompts sorted, chunked and trimmed."""
    loaded, reference = load_model(folder(kind)), stock(kind)
    head = zero_shot_head(loaded.model, loaded.tokenize, captions())
    theirs = open_clip.build_zero_shot_classifier(reference, loaded.tokenize, NAMES, TEMPLATES)
    torch.testing.assert_close(head, theirs.T, rtol=0, atol=1e-6)
    assert torch.equal(head[2], head[4])
    pixels = images(8, loaded.image.size[0])
    ours = zero_shot_logits(loaded.model, pixels, head)
    with torch.no_grad():
        logits = reference.logit_scale.exp() * reference.encode_image(pixels, normalize=True) @ theirs
        if getattr(reference, "logit_bias", None) is not None:
            logits = logits + reference.logit_bias
    torch.testing.assert_close(ours, logits, rtol=0, atol=1e-5)
    same = torch.tensor([0, 1, 2, 3, 2])  # equal names: a product may round equal columns differently, by machine
    assert torch.equal(same[ours.argmax(1)], same[logits.argmax(1)])


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_one_prompt_a_class_is_the_forward_of_transformers(kind):
    """`logits_per_image` of CLIPModel and SiglipModel, scale and bias included."""
    pytest.importorskip("transformers")
    loaded = load_model(hf_folder(kind))
    head = zero_shot_head(loaded.model, loaded.tokenize, [[caption] for caption in CAPTIONS])
    ours = zero_shot_logits(loaded.model, images(8), head)
    with torch.no_grad():
        logits = transformer(kind)(pixel_values=images(8), input_ids=loaded.tokenize(CAPTIONS)).logits_per_image
    torch.testing.assert_close(ours, logits, rtol=0, atol=1e-5)
    assert torch.equal(ours.argmax(1), logits.argmax(1))


def test_prompts_are_encoded_once_in_trimmed_chunks(monkeypatch):
    """15 prompts, 12 of them different; tokens encoded are counted, without the prefixes that they share."""
    monkeypatch.setattr(prefixes, "GAIN", math.inf)
    loaded = load_model(folder("vit"))
    seen = []
    loaded.model.token_embedding.register_forward_hook(lambda _m, inputs, _o: seen.append(tuple(inputs[0].shape)))
    head = zero_shot_head(loaded.model, loaded.tokenize, captions())
    assert [shape[0] for shape in seen] == [12]
    seen.clear()
    distinct = list(dict.fromkeys(caption for of_class in captions() for caption in of_class))
    small = encode_captions(loaded.model, loaded.tokenize, distinct, chunk=4)
    assert [shape[0] for shape in seen] == [4, 4, 4]
    assert [shape[1] for shape in seen] == sorted(shape[1] for shape in seen)
    assert seen[0][1] < seen[-1][1] <= 16
    rows = torch.nn.functional.normalize(small[:3].mean(0), dim=0)
    torch.testing.assert_close(rows, head[0], rtol=0, atol=1e-6)


def test_order_of_templates_does_not_matter_and_columns_are_unit_norm():
    """Means do not know an order."""
    loaded = load_model("tiny:random")
    names = [[f"a {word} {kind}" for kind in ("digit", "number")] for word in ("red", "blue")]
    head = zero_shot_head(loaded.model, loaded.tokenize, names)
    other = zero_shot_head(loaded.model, loaded.tokenize, [list(reversed(of_class)) for of_class in names])
    torch.testing.assert_close(head, other, rtol=0, atol=1e-6)
    torch.testing.assert_close(head.norm(dim=1), torch.ones(2))


def test_head_stays_in_float32_under_autocast():
    """bf16 autocast moves a few predictions; the head does not follow it."""
    loaded = load_model(folder("vit"))
    expected = zero_shot_head(loaded.model, loaded.tokenize, captions())
    with torch.autocast("cpu", torch.bfloat16):
        head = zero_shot_head(loaded.model, loaded.tokenize, captions())
    assert head.dtype == torch.float32
    assert torch.equal(head, expected)


def test_class_without_caption_is_named():
    """Instead of a NaN column."""
    loaded = load_model("tiny:random")
    with pytest.raises(ArgumentError, match=r"got none for \[1\]"):
        zero_shot_head(loaded.model, loaded.tokenize, [["a"], []])
    with pytest.raises(ArgumentError, match="any class"):
        zero_shot_head(loaded.model, loaded.tokenize, [])
