"""The aligned start of the shift study."""

import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests.data.pictures import EMOJI
from tracerft.errors import DataError, ShapeError
from tracerft.models.mini import MiniConfig, MiniDualEncoder
from tracerft.studies.shift_start import (
    EmojiFeatures,
    align,
    aligned_names,
    name_retrieval,
    read_images,
    read_names,
    start_pairs,
)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="needs transformers: pip install tracerft[mini]"
)


def made_up(num_names: int = 20) -> EmojiFeatures:
    """Two styles that are rotations of one hidden meaning, which the text holds too."""
    g = torch.Generator().manual_seed(1)
    meaning = torch.randn(num_names, 16, generator=g)
    images = {
        style: (meaning @ torch.randn(16, 1280, generator=g) + 0.1 * torch.randn(num_names, 1280, generator=g))
        for style in ("a", "b")
    }
    names = tuple(map(str, range(num_names)))
    return EmojiFeatures(names, names, images, F.normalize(meaning @ torch.randn(16, 384, generator=g), dim=1))


def test_alignment_finds_names_and_repeats_bitwise() -> None:
    """Ten steps on made-up features: names are found, a second run is equal, the given model is untouched."""
    features, model = made_up(), MiniDualEncoder(MiniConfig(image_size=96))
    before = model.visual.proj.clone()
    chosen = aligned_names(20)
    images, texts, ids = start_pairs(features, chosen, torch.randn(3, 1280), torch.eye(384)[[0, 1, 0]])
    assert (len(images), int(chosen.sum()), ids[-3] == ids[-1]) == (2 * 16 + 3, 16, True)
    first, second = (align(model, images, texts, caption_ids=ids, steps=40, batch_size=16, lr=3e-3) for _ in range(2))
    assert torch.equal(first.visual.proj, second.visual.proj)
    assert torch.equal(first.logit_scale, second.logit_scale)
    assert torch.equal(model.visual.proj, before)
    assert first.visual.proj.shape == (1280, 256)
    assert torch.equal(first.visual.trunk.conv_stem.weight, model.visual.trunk.conv_stem.weight)
    assert all(found[chosen].float().mean() > 0.8 for found in name_retrieval(first, features).values())
    with pytest.raises(ShapeError, match="pair up"):
        align(model, images, texts[1:], caption_ids=ids)


def test_missing_data_is_named(tmp_path: Path) -> None:
    """The file that cannot be read is in the error."""
    with pytest.raises(DataError, match=r"captions\.csv"):
        read_names(tmp_path)
    with pytest.raises(DataError, match=r"1f600\.png"):
        read_images(tmp_path, ["1f600"])


@pytest.mark.skipif(EMOJI is None, reason="shared/data/emoji is not beside the repository")
def test_emoji_are_read_as_the_tower_wants_them() -> None:
    """1,586 distinct names; white is 1."""
    assert EMOJI is not None
    codepoints, names = read_names(EMOJI)
    images = read_images(EMOJI / "noto", codepoints[:2])
    assert len(set(codepoints)) == len(set(names)) == 1586
    assert images.shape == (2, 3, 96, 96)
    assert images.max() == 1.0
    assert images.min() >= -1.0
