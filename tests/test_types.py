"""The nouns."""

import pytest
import torch

from tracerft.errors import ArgumentError, ShapeError
from tracerft.types import Batch, Embeddings

IMAGE, TEXT, SCALE = torch.eye(3), torch.eye(3).flip(0), torch.tensor(2.0)


@pytest.mark.parametrize("bias", [None, torch.tensor(-1.0)])
def test_embeddings_read_what_open_clip_returns(bias):
    """Tuple, list, dict, and themselves."""
    outputs = [
        (IMAGE, TEXT, SCALE) if bias is None else (IMAGE, TEXT, SCALE, bias),
        [IMAGE, TEXT, SCALE] if bias is None else [IMAGE, TEXT, SCALE, bias],
        {"image_features": IMAGE, "text_features": TEXT, "logit_scale": SCALE, "logit_bias": bias},
        Embeddings(IMAGE, TEXT, SCALE, bias),
    ]
    for output in outputs:
        found = Embeddings.of(output)
        assert found.image is IMAGE
        assert found.text is TEXT
        assert found.scale is SCALE
        assert found.bias is bias
    assert Embeddings.of(outputs[-1]) is outputs[-1]


@pytest.mark.parametrize("output", [IMAGE, (IMAGE, TEXT), (IMAGE, TEXT, 2.0), {"image_embeds": IMAGE}, None])
def test_other_outputs_are_refused_with_the_cure(output):
    """Names the type that came."""
    with pytest.raises(ArgumentError, match=rf"got {type(output).__name__}; build tracerft\.Embeddings"):
        Embeddings.of(output)


@pytest.mark.parametrize(
    ("image", "text", "scale"),
    [(IMAGE[0], TEXT, SCALE), (IMAGE, TEXT[:, :2], SCALE), (IMAGE[None], TEXT, SCALE), (IMAGE, TEXT, torch.ones(2))],
)
def test_shapes_that_do_not_belong_together_are_refused(image, text, scale):
    """With the shapes that came."""
    with pytest.raises(ShapeError, match="got "):
        Embeddings(image, text, scale)


def test_fewer_captions_than_images_are_fine():
    """Class captions: (C, D)."""
    assert Embeddings(IMAGE, TEXT[:2], SCALE.reshape(1)).text.shape == (2, 3)


def test_the_length_of_a_batch_is_its_number_of_pairs():
    """N."""
    ids = torch.arange(4)
    assert len(Batch(torch.zeros(4, 3, 2, 2), torch.zeros(4, 5), None, ids, ids)) == 4
