"""The toy study's model."""

import pytest
import torch
import torch.nn.functional as F

from tests.conftest import SMALL
from tracerft.errors import ArgumentError
from tracerft.models.tiny import ALPHABET, END, PAD, TinyConfig, TinyDualEncoder, tokenize
from tracerft.types import Embeddings

CAPTIONS = ["the digit seven", "a red digit", "x"]


@pytest.fixture(scope="module")
def model():
    """Small, random."""
    return TinyDualEncoder(SMALL, seed=1).eval()


def images(num=3):
    """Seeded images."""
    return torch.rand(num, 3, 28, 28, generator=torch.Generator().manual_seed(0))


def test_forward_is_read_by_embeddings(model):
    """Unit-norm rows, exponentiated scale, open_clip's order."""
    found = Embeddings.of(model(images(), tokenize(CAPTIONS)))
    assert found.image.shape == found.text.shape == (3, SMALL.embed_dim)
    for rows in (found.image, found.text):
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))
    assert found.scale.item() == pytest.approx(1 / 0.07, rel=1e-4)


def test_encoders_normalise_on_request_only(model):
    """Direction is the same."""
    for raw, unit in (
        (model.encode_image(images()), model.encode_image(images(), normalize=True)),
        (model.encode_text(tokenize(CAPTIONS)), model.encode_text(tokenize(CAPTIONS), normalize=True)),
    ):
        assert not torch.allclose(raw, unit)
        assert torch.equal(F.normalize(raw, dim=-1), unit)


def test_a_seed_is_a_model_and_leaves_the_global_generator_alone():
    """Equal seeds, equal weights, whatever was drawn before."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = TinyDualEncoder(SMALL, seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    again, other = TinyDualEncoder(SMALL, seed=1).state_dict(), TinyDualEncoder(SMALL, seed=2).state_dict()
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert not torch.equal(first["visual.proj"], other["visual.proj"])


def test_the_default_size_is_what_the_study_says():
    """About 150 thousand parameters in the image tower."""
    count = sum(p.numel() for p in TinyDualEncoder().visual.parameters())
    assert 140_000 < count < 160_000


def test_tokens_are_characters_an_end_and_padding():
    """Case and surrounding blanks do not count."""
    row = tokenize(["  Ab "], context=6)
    assert row.tolist() == [[ALPHABET.index("a") + 2, ALPHABET.index("b") + 2, END, PAD, PAD, PAD]]
    assert row.dtype == torch.int64


@pytest.mark.parametrize("caption", ["", "   ", "x" * 24, "über", "a\x00b", "😀", "a\nb"])
def test_a_caption_that_does_not_fit_is_named(caption):
    """Empty, too long, unknown characters; one line."""
    with pytest.raises(ArgumentError, match="does not fit the tiny model: expected 1 to 23 characters") as caught:
        tokenize(["fine", caption])
    assert "\n" not in str(caught.value)


def test_the_longest_caption_fits():
    """One place is for the end token."""
    assert int(tokenize(["x" * 23])[0, -1]) == END


@pytest.mark.parametrize("caption", CAPTIONS)
def test_padding_does_not_change_a_text_embedding(caption, model):
    """The same caption in a row just long enough and in the longest."""
    short = model.encode_text(tokenize([caption], context=len(caption) + 1))
    torch.testing.assert_close(short, model.encode_text(tokenize([caption])), rtol=0, atol=1e-6)


def test_the_order_of_characters_matters(model):
    """Positions are seen."""
    both = model.encode_text(tokenize(["ab", "ba"]))
    assert not torch.allclose(both[0], both[1], atol=1e-3)


@pytest.mark.parametrize("sizes", [{"patch": 5}, {"width": 10, "heads": 4}])
def test_sizes_that_do_not_divide_are_refused(sizes):
    """With the rule."""
    with pytest.raises(ArgumentError, match="`patch` must divide 28 and `heads` must divide `width`"):
        TinyConfig(**sizes)
