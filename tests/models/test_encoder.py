"""Embedding a batch, freezing towers, finding projections."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.conftest import SMALL
from tests.methods.steps import random_batch
from tracerft.errors import ArgumentError
from tracerft.models.encoder import DualEncoder, embed, freeze, projections
from tracerft.models.tiny import TinyDualEncoder


@pytest.fixture
def model():
    """Small, random."""
    return TinyDualEncoder(SMALL, seed=1)


def repeated(batch, ids):
    """The batch with captions given by ids into it."""
    index = torch.tensor(ids)
    return replace(batch, tokens=batch.tokens[index], caption_ids=index, labels=index)


@pytest.mark.parametrize("ids", [[0, 1, 2, 3, 4, 5, 6, 7], [3, 3, 0, 3, 7, 0, 3, 1], [5] * 8])
def test_equal_captions_are_encoded_once_and_embed_like_each_row(ids, model):
    """Values and gradients equal those of encoding every row."""
    batch = repeated(random_batch(), ids)
    rows = []
    encode = model.encode_text
    model.encode_text = lambda text, normalize=False: rows.append(len(text)) or encode(text, normalize)
    found = embed(model, batch)
    assert rows == [len(set(ids))]
    plain = encode(batch.tokens, True)
    torch.testing.assert_close(found.text, plain, rtol=0, atol=1e-6)
    direction = torch.randn(found.text.shape, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad((found.text * direction).sum(), model.text.proj)[0]
    theirs = torch.autograd.grad((plain * direction).sum(), model.text.proj)[0]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_embeddings_are_unit_norm_with_the_exponentiated_scale(model):
    """What every loss expects; a logit bias is passed on."""
    found = embed(model, random_batch())
    torch.testing.assert_close(found.image.norm(dim=1), torch.ones(8))
    torch.testing.assert_close(found.text.norm(dim=1), torch.ones(8))
    assert torch.equal(found.scale, model.logit_scale.exp())
    assert found.bias is None
    model.logit_bias = nn.Parameter(torch.tensor(-10.0))
    assert embed(model, random_batch()).bias is model.logit_bias


def test_the_tiny_model_is_a_dual_encoder(model):
    """By its surface; a plain layer is not. Not by isinstance, which sees no parameter from Python 3.12 on."""
    surface = {*DualEncoder.__annotations__, "encode_image", "encode_text"}
    assert all(hasattr(model, name) for name in surface)
    assert not any(hasattr(nn.Linear(2, 2), name) for name in surface)


@pytest.mark.parametrize(
    ("what", "trains"), [("none", {"visual", "text", "logit_scale"}), ("text", {"visual"}),
                         ("image", {"text", "logit_scale"})]
)  # fmt: skip
def test_freeze_stops_one_tower(what, trains, model):
    """`text` takes the scale with it."""
    freeze(model, what)
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad} == trains


def test_freeze_needs_an_image_tower():
    """Named as open_clip names it."""
    with pytest.raises(ArgumentError, match=r"a model with an image tower `visual` is needed.*; got Linear"):
        freeze(nn.Linear(2, 2), "text")
    freeze(nn.Linear(2, 2), "none")


def test_projections_are_the_last_matrices(model):
    """Also where open_clip keeps them; none is an error."""
    assert projections(model) == (model.visual.proj, model.text.proj)
    other = nn.Module()
    other.visual, other.text_projection = model.visual, nn.Parameter(torch.eye(3))
    assert projections(other)[1] is other.text_projection
    with pytest.raises(ArgumentError, match="set it to 0"):
        projections(nn.Linear(2, 2))
