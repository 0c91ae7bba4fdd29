"""Models of open_clip keep their numbers behind our surface."""

import json
import shutil
from pathlib import Path

import open_clip
import pytest
import torch

from tests.models.small import CAPTIONS, OPEN_CLIP, folder, images, stock
from tracerft import WMATeacher, load_model, save_model
from tracerft.errors import ArgumentError, DataError
from tracerft.models import open_clip as adapter
from tracerft.models.encoder import embed, freeze, projections, trim
from tracerft.types import Batch, Embeddings

KINDS = tuple(OPEN_CLIP)
TRIMMED = {"vit", "quickgelu", "proj-bias", "resnet", "custom-text", "timm"}


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_those_of_stock_open_clip(kind):
    """Loading changes no number, trimmed or not."""
    loaded, reference = load_model(f"open_clip:local-dir:{folder(kind)}"), stock(kind)
    tokens = loaded.tokenize(CAPTIONS)
    cut = trim(loaded.model, tokens)
    assert (cut.shape[1] < tokens.shape[1]) == (kind in TRIMMED)
    with torch.no_grad():
        text = reference.encode_text(tokens, normalize=True)
        torch.testing.assert_close(loaded.model.encode_text(cut, normalize=True), text, rtol=0, atol=1e-6)
        assert torch.equal(loaded.model.encode_text(tokens, normalize=True), text)
        pixels = images(2, loaded.image.size[0])
        assert torch.equal(loaded.model.encode_image(pixels), reference.encode_image(pixels))


@pytest.mark.parametrize("kind", KINDS)
def test_saved_folder_loads_in_stock_open_clip(kind, tmp_path):
    """A teacher's copy is written in the local-dir schema; open_clip and we read the same model back."""
    loaded = load_model(folder(kind))
    teacher = WMATeacher(loaded.model, total_steps=3)
    save_model(teacher.averaged, tmp_path)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    again, tokens = load_model(tmp_path), loaded.tokenize(CAPTIONS)
    assert again.image == loaded.image
    assert preprocess.transforms[-1].std == [0.25] * 3
    model.eval()
    with torch.no_grad():
        for other in (model, again.model):
            torch.testing.assert_close(other.encode_text(tokens), loaded.model.encode_text(tokens), rtol=0, atol=1e-6)
            pixels = images(2, loaded.image.size[0])
            assert torch.equal(other.encode_image(pixels), loaded.model.encode_image(pixels))


def test_model_that_open_clip_built_is_saved_by_architecture(tmp_path):
    """Somebody's own loop ends with save_model."""
    model = open_clip.create_model("ViT-S-32-alt").eval()
    with pytest.raises(ArgumentError, match="give `architecture`"):
        save_model(model, tmp_path)
    save_model(model, tmp_path, architecture="ViT-S-32-alt")
    pixels = images(1, 224)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path).model.encode_image(pixels), model.encode_image(pixels))


def test_random_weights_are_keyed_by_the_seed():
    """A seed is a model; `none` and an empty name of weights mean the same."""
    first, same, other = (
        load_model(f"open_clip:ViT-S-32-alt{weights}", seed=seed).model.state_dict()
        for weights, seed in (("", 1), ("/none", 1), ("/", 2))
    )
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["visual.proj"], other["visual.proj"])


def test_embed_encodes_equal_captions_once_and_trimmed():
    """The tower sees two captions of seven tokens, not three of sixteen; the result is that of the full batch."""
    loaded = load_model(folder("vit"))
    tokens = loaded.tokenize([CAPTIONS[0], CAPTIONS[1], CAPTIONS[0]])
    batch = Batch(images(3), tokens, None, torch.tensor([7, 2, 7]), torch.arange(3))
    seen = []
    loaded.model.token_embedding.register_forward_hook(lambda _m, inputs, _o: seen.append(tuple(inputs[0].shape)))
    ours = embed(loaded.model, batch)
    whole = Embeddings.of(stock("vit")(batch.images, tokens))
    assert seen == [(2, 7)]
    torch.testing.assert_close(ours.text, whole.text, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.image, whole.image, rtol=0, atol=1e-6)
    assert torch.equal(ours.scale, whole.scale)


def test_teacher_is_trimmed_too():
    """Tokens are cut for the averaged model inside a teacher."""
    loaded = load_model(folder("custom-text"))
    assert trim(WMATeacher(loaded.model, total_steps=3), loaded.tokenize(CAPTIONS)).shape[1] == 9


def test_openai_weights_without_quickgelu_are_refused_by_naming_the_right_architecture():
    """In the whole registry, the architecture that the error names exists and has these weights."""
    refused = 0
    for architecture, tag in open_clip.list_pretrained():
        try:
            adapter._check_weights(architecture, tag)
        except ArgumentError as error:
            right, _, weights = str(error).rpartition("open_clip:")[2].partition("/")
            adapter.check_architecture(right)
            adapter._check_weights(right, weights)
            refused += 1
    assert refused > 10
    with pytest.raises(ArgumentError, match="use open_clip:ViT-B-16-quickgelu/openai"):
        load_model("open_clip:ViT-B-16/openai")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("open_clip:ViT-B-61", "did you mean 'ViT-B-16'"),
        ("open_clip:ViT-B-16-quickgelu/opnai", "did you mean 'openai'"),
        ("open_clip:local-dir:/nowhere", "not a folder with open_clip_config.json"),
        ("ViT-B-16/openai", "open_clip:ARCH/PRETRAINED"),
    ],
)
def test_wrong_names_are_one_line(spec, says):
    """What came, and what was meant."""
    with pytest.raises(ArgumentError, match=says) as caught:
        load_model(spec)
    assert "\n" not in str(caught.value)


def test_no_network_points_to_local_dir(monkeypatch):
    """A failed download says how to go on without one."""

    def fail(*_args, **_kwargs):
        raise OSError("no route\nto host")

    monkeypatch.setattr("open_clip.factory.download_pretrained", fail)
    with pytest.raises(ArgumentError, match=r"no route to host.*local-dir:FOLDER") as caught:
        load_model("open_clip:ViT-B-32-quickgelu/openai")
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_not_read(tmp_path):
    """A file of its own is imported apart, a folder must hold safetensors."""
    torch.save({}, tmp_path / "weights.pt")
    with pytest.raises(ArgumentError, match="import_pt"):
        load_model(f"open_clip:ViT-S-32-alt/{tmp_path}/weights.pt")
    shutil.copy(Path(folder("vit")) / adapter.CONFIG, tmp_path)
    with pytest.raises(DataError, match=r"expected open_clip_model\.safetensors"):
        load_model(tmp_path)


@pytest.mark.parametrize("damage", ["no weights", "other weights", "half a file", "no config"])
def test_damaged_folder_is_a_data_error(damage, tmp_path):
    """open_clip only logs a missing file and goes on with random weights; we do not."""
    target = tmp_path / "model"
    shutil.copytree(folder("vit"), target)
    weights, config = target / adapter.WEIGHTS, target / adapter.CONFIG
    if damage == "no weights":
        weights.unlink()
    elif damage == "other weights":
        shutil.copy(Path(folder("resnet")) / adapter.WEIGHTS, weights)
    elif damage == "half a file":
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        config.write_text(json.dumps({"model_cfg": {}}))
    with pytest.raises(DataError) as caught:
        load_model(target)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_towers_get_no_gradient(kind):
    """`image` freezes the image tower, `text` everything else."""
    for what in ("image", "text"):
        loaded = load_model(folder(kind))
        freeze(loaded.model, what)
        trained = {name.startswith("visual.") for name, p in loaded.model.named_parameters() if p.requires_grad}
        assert trained == {what == "text"}
        assert loaded.model.logit_scale.requires_grad == (what == "image")


def test_frozen_tower_keeps_its_batch_statistics():
    """BatchNorm in a frozen tower does not move in train mode, in a copy neither."""
    import copy

    model = load_model(folder("resnet")).model
    freeze(model, "image")
    for each in (model, copy.deepcopy(model)):
        before = each.visual.bn1.running_mean.clone()
        each.train()
        each.encode_image(images())
        assert torch.equal(each.visual.bn1.running_mean, before)


@pytest.mark.parametrize("kind", ["vit", "proj-bias", "resnet", "custom-text", "timm"])
def test_projections_end_in_one_width(kind):
    """``(width, D)`` each, with gradient."""
    model = load_model(folder(kind)).model
    image, text = projections(model)
    width = OPEN_CLIP[kind]["embed_dim"]
    assert image.shape[1] == text.shape[1] == width
    assert image.requires_grad
    assert text.requires_grad


def test_image_spec_reads_the_preprocessing():
    """Sizes, numbers and ways of resizing."""
    spec = adapter.image_spec(
        {"size": (16, 24), "mean": (0, 0, 0), "std": [1, 1, 1], "interpolation": "random", "resize_mode": "squash"}
    )
    assert (spec.size, spec.std, spec.interpolation, spec.resize) == ((16, 24), (1.0, 1.0, 1.0), "bicubic", "squash")
    with pytest.raises(ArgumentError, match="longest"):
        adapter.image_spec({"size": 8, "mean": (0,) * 3, "std": (1,) * 3, "resize_mode": "longest"})
