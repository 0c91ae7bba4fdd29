"""Models of transformers behind our surface give transformers' own numbers."""

import json
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from tests.models.small import CAPTIONS, hf_folder, images, transformer
from tracerft import WMATeacher, load_model, save_model
from tracerft.errors import ArgumentError, DataError, MissingExtraError
from tracerft.models.encoder import freeze, projections, trim
from tracerft.models.hf import HFDualEncoder, image_spec, load_hf
from tracerft.types import Embeddings

KINDS = ("clip", "clip-old", "siglip")


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_transformers(kind):
    """``logits_per_image`` from our embeddings, scale and bias; trimmed tokens give the same."""
    loaded, reference = load_model(f"hf:{hf_folder(kind)}"), transformer(kind)
    tokens = loaded.tokenize(CAPTIONS)
    assert tokens.shape == (3, 12)
    cut = trim(loaded.model, tokens)
    assert (cut.shape[1] < 12) == (kind != "siglip")
    with torch.no_grad():
        theirs = reference(pixel_values=images(), input_ids=tokens).logits_per_image
        for given in (tokens, cut):
            ours = Embeddings.of(loaded.model(images(), given))
            logits = ours.scale * ours.image @ ours.text.T + (0 if ours.bias is None else ours.bias)
            torch.testing.assert_close(logits, theirs, rtol=0, atol=1e-5)


def test_old_clip_files_pool_at_the_highest_id():
    """End id 2 in the configuration stands for the highest id of each row."""
    loaded = load_model(hf_folder("clip-old"))
    tokens = torch.tensor([[3, 9, 39, 0, 0, 0], [3, 39, 0, 0, 0, 0]])
    assert trim(loaded.model, tokens).shape[1] == 3
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.model.encode_text(tokens[:, :3]), loaded.model.encode_text(tokens), rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("kind", KINDS)
def test_saved_folder_loads_in_transformers(kind, tmp_path):
    """A teacher's copy is written by save_pretrained; both read the same model, tokenizer and preprocessing."""
    import transformers

    loaded = load_model(hf_folder(kind))
    save_model(WMATeacher(loaded.model, total_steps=2).averaged, tmp_path)
    again = load_model(tmp_path)
    theirs = transformers.AutoModel.from_pretrained(tmp_path).eval()
    tokens = loaded.tokenize(CAPTIONS)
    assert torch.equal(again.tokenize(CAPTIONS), tokens)
    assert again.image == loaded.image
    with torch.no_grad():
        assert torch.equal(again.model.encode_image(images()), loaded.model.encode_image(images()))
        assert torch.equal(theirs.get_text_features(input_ids=tokens).pooler_output, loaded.model.encode_text(tokens))


def test_image_spec_comes_from_the_processor_or_the_family():
    """CLIP crops the middle, SigLIP squashes; a missing processor is no obstacle."""
    clip, siglip = load_model(hf_folder("clip")).image, load_model(hf_folder("siglip")).image
    assert (clip.size, clip.resize, clip.interpolation) == ((32, 32), "shortest", "bicubic")
    assert (siglip.size, siglip.resize, siglip.interpolation, siglip.mean) == (
        (32, 32),
        "squash",
        "bilinear",
        (0.5,) * 3,
    )
    assert clip == image_spec(transformer("clip").config, None)
    assert image_spec(transformer("siglip").config, None).resize == "squash"


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_frozen_towers_get_no_gradient(kind):
    """Towers are told apart by transformers' names; the projection belongs to its tower."""
    for what in ("image", "text"):
        model = load_model(hf_folder(kind)).model
        freeze(model, what)
        trained = {"vis" in name for name, p in model.named_parameters() if p.requires_grad}
        assert trained == {what == "text"}
        assert model.logit_scale.requires_grad == (what == "image")


def test_projections_of_clip_and_none_of_siglip():
    """CLIP ends in two matrices, SigLIP's image tower does not."""
    image, text = projections(load_model(hf_folder("clip")).model)
    assert image.shape == text.shape == (32, 24)
    with pytest.raises(ArgumentError, match="set it to 0"):
        projections(load_model(hf_folder("siglip")).model)


def test_naflex_and_other_families_are_refused(tmp_path):
    """One line says what to take instead."""
    import transformers

    for config, says in (
        (transformers.Siglip2Config(), "siglip2-base-patch16-224"),
        (transformers.BertConfig(), "bert"),
    ):
        config.save_pretrained(tmp_path)
        with pytest.raises(ArgumentError, match=says):
            load_model(f"hf:{tmp_path}")


def test_damaged_folder_and_missing_package(tmp_path, monkeypatch):
    """A folder that transformers cannot read is a data error; without transformers the extra is named."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(DataError) as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"tracerft\[hf\]"):
        load_hf(str(tmp_path))


def test_missing_tokenizer_does_not_cost_the_weights(tmp_path):
    """Saving warns and goes on."""
    model = HFDualEncoder(transformer("clip"))
    with pytest.raises(ArgumentError, match="cannot be saved"):
        save_model(model, tmp_path)
    loaded = load_model(hf_folder("clip"))
    bare = Path(hf_folder("clip"))
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((bare / file).read_bytes())
    loaded = load_model(tmp_path)
    with pytest.warns(UserWarning, match="without a tokenizer"):
        save_model(loaded.model, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()
