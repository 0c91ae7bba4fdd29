"""Which layers are read of each family, and that what is read is what the tower goes on with."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.models.small import folder, hf_folder, images
from tracerft import load_model
from tracerft.errors import ArgumentError
from tracerft.models.features import capture, feature_layers
from tracerft.models.tiny import TinyConfig, TinyDualEncoder

RESBLOCKS = tuple(f"visual.transformer.resblocks.{i}" for i in range(2))
LAYERS = {
    **dict.fromkeys(("vit", "quickgelu", "custom-text", "siglip", "coca"), RESBLOCKS),
    "resnet": tuple(f"visual.layer{i}" for i in range(1, 5)),
    "timm": tuple(f"visual.trunk.blocks.{i}" for i in range(6)),
}


def _hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def _tiny(layers: int = 2) -> TinyDualEncoder:
    return TinyDualEncoder(TinyConfig(width=16, layers=layers, heads=2, text_layers=1, embed_dim=8))


def test_layers_are_evenly_spaced_and_end_with_the_last():
    """Six of twelve are every second one (LDIFS); five of twelve round 2.4, 4.8, 7.2, 9.6, 12."""
    model = _tiny(12)
    numbers = [[int(name.rpartition(".")[2]) + 1 for name in feature_layers(model, n)] for n in (6, 5, 1, 12, 20)]
    assert numbers == [[2, 4, 6, 8, 10, 12], [2, 5, 7, 10, 12], [12], list(range(1, 13)), list(range(1, 13))]


@pytest.mark.parametrize("kind", list(LAYERS))
def test_models_of_open_clip(kind):
    """All blocks of small towers, each with one row an image."""
    loaded = load_model(folder(kind))
    assert feature_layers(loaded.model, 6) == LAYERS[kind]
    with torch.no_grad(), capture(loaded.model, feature_layers(loaded.model)) as seen:
        loaded.model.encode_image(images(3, loaded.image.size[0]))
    assert tuple(seen) == feature_layers(loaded.model)
    assert all(f.ndim == 2 and len(f) == 3 and f.isfinite().all() for f in seen.values())


def test_the_last_block_of_a_vit_gives_the_embedding():
    """Its class token through the closing norm and projection is what open_clip returns."""
    model = load_model(folder("vit")).model
    with torch.no_grad(), capture(model, RESBLOCKS) as seen:
        embedding = model.encode_image(images())
        again = model.visual.ln_post(seen[RESBLOCKS[-1]]) @ model.visual.proj
    torch.testing.assert_close(again, embedding, rtol=0, atol=1e-6)


def test_maps_of_a_resnet_are_averaged_over_space():
    """layer4 run by hand on the output of the blocks before."""
    model = load_model(folder("resnet")).model
    with torch.no_grad(), capture(model, feature_layers(model)) as seen:
        model.encode_image(images())
    with torch.no_grad():
        x = model.visual.stem(images())
        for number in range(1, 5):
            x = getattr(model.visual, f"layer{number}")(x)
            expected = x.flatten(2).sum(dim=2) / (x.shape[2] * x.shape[3])
            torch.testing.assert_close(seen[f"visual.layer{number}"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_models_of_transformers(kind):
    """CLIP's class token and SigLIP's mean over patches, against transformers' own hidden states."""
    pytest.importorskip("transformers")
    model = load_model(f"hf:{hf_folder(kind)}").model
    names = tuple(f"model.vision_model.encoder.layers.{i}" for i in range(2))
    assert feature_layers(model) == names
    with torch.no_grad(), capture(model, names) as seen:
        states = model.model.vision_model(pixel_values=images(), output_hidden_states=True).hidden_states
    for name, state in zip(names, states[1:], strict=True):
        torch.testing.assert_close(seen[name], state[:, 0] if kind == "clip" else state.mean(dim=1))


def test_the_mini_model_has_stages():
    """Five of EfficientNet-Lite0's seven, as maps averaged over space; the last is 320 wide."""
    pytest.importorskip("transformers")
    pytest.importorskip("timm")
    from tracerft.models.mini import MiniDualEncoder

    model = MiniDualEncoder()
    names = feature_layers(model)
    assert names == tuple(f"visual.trunk.blocks.{i}" for i in (0, 2, 3, 5, 6))
    with torch.no_grad(), capture(model, names) as seen:
        model.encode_image(images(2))
    assert [tuple(f.shape) for f in seen.values()] == [(2, width) for width in (16, 40, 80, 192, 320)]


def test_gradients_flow_unless_the_forward_pass_is_without():
    """The student's features train the blocks before them and no later one; a reference's carry no graph."""
    model, pixels = _tiny(), torch.rand(3, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with capture(model, ("visual.blocks.0",)) as seen:
        model.encode_image(pixels)
    F.normalize(seen["visual.blocks.0"], dim=1)[:, 0].sum().backward()
    assert model.visual.blocks[0].qkv.weight.grad.abs().max() > 0
    assert model.visual.blocks[1].qkv.weight.grad is None
    with torch.no_grad(), capture(model, ("visual.blocks.0",)) as seen:
        model.encode_image(pixels)
    assert not seen["visual.blocks.0"].requires_grad


def test_nothing_stays_behind_and_no_number_changes():
    """Hooks go with the block, also after an error; the embeddings are the same to the bit."""
    model, pixels = _tiny(), torch.rand(3, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    plain = model.encode_image(pixels)
    with capture(model, feature_layers(model)) as seen:
        assert torch.equal(model.encode_image(pixels), plain)
        assert _hooks(model) == 2
    kept = dict(seen)
    model.encode_image(pixels + 1)
    assert all(seen[name] is kept[name] for name in kept)
    with pytest.raises(RuntimeError, match="on purpose"), capture(model, feature_layers(model)):
        raise RuntimeError("on purpose")
    assert _hooks(model) == 0


def test_misuse_is_explained_in_one_line():
    """Names, counts, towers of another build, outputs that are no features."""
    model, other = _tiny(), nn.Module()
    other.visual = nn.Linear(2, 2)

    def run(name: str) -> None:
        with capture(model, (name,)):
            model.encode_image(torch.zeros(1, 3, 28, 28))

    for call, text in [
        (lambda: feature_layers(model, 0), "`count` must be at least 1"),
        (lambda: feature_layers(other), "blocks of the image tower of Module are not known"),
        (lambda: run("visual.block.0"), "did you mean 'visual.blocks.0'"),
    ]:
        with pytest.raises(ArgumentError, match=text) as caught:
            call()
        assert "\n" not in str(caught.value)
    strange = nn.Module()
    strange.visual = nn.Sequential(nn.Unflatten(1, (1, 1, 1, 4)), nn.Linear(4, 4))
    with (
        pytest.raises(ArgumentError, match=r"'visual.1' must give .* got \(2, 1, 1, 1, 4\)"),
        capture(strange, ["visual.1"]),
    ):
        strange.visual(torch.zeros(2, 4))
