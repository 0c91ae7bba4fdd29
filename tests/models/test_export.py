"""What is exported gives the same embeddings elsewhere."""

import json
import sys

import numpy as np
import pytest
import torch

from tests.models.small import folder, hf_folder, images
from tracerft import load_model
from tracerft.errors import ArgumentError, DataError, MissingExtraError
from tracerft.models.export import export_model
from tracerft.models.lora import add_lora


def load(spec):
    """A small model by kind."""
    family, _, kind = spec.partition(":")
    if family == "tiny":
        return load_model(spec)
    return load_model(folder(kind) if family == "open_clip" else hf_folder(kind))


SLOW = (
    "tiny:random",
    "hf:siglip",
    "open_clip:resnet",
    "open_clip:siglip",
    "open_clip:timm",
    "open_clip:coca",
    "hf:clip",
)


@pytest.mark.parametrize(
    "spec",
    ["open_clip:vit", *(pytest.param(spec, marks=pytest.mark.slow) for spec in SLOW)],
)
def test_onnx_graphs_take_any_batch(spec, tmp_path):
    """Both graphs in onnxruntime give our unit-norm embeddings; the description gives scale and bias."""
    runtime = pytest.importorskip("onnxruntime")
    if spec.startswith("hf"):
        pytest.importorskip("transformers")
    loaded = load(spec)
    export_model(loaded, tmp_path / "onnx", to="onnx")
    description = json.loads((tmp_path / "onnx" / "tracerft_onnx.json").read_text())
    pixels = images(5, 28 if loaded.image is None else loaded.image.size[0])
    tokens = loaded.tokenize(("a cat", "a dog", "a red three"))
    with torch.no_grad():
        for file, given, ours in (
            ("image.onnx", pixels, loaded.model.encode_image(pixels, normalize=True)),
            ("text.onnx", tokens, loaded.model.encode_text(tokens, normalize=True)),
        ):
            session = runtime.InferenceSession(str(tmp_path / "onnx" / file))
            (theirs,) = session.run(None, {session.get_inputs()[0].name: given.numpy()})
            np.testing.assert_allclose(theirs, ours.numpy(), rtol=0, atol=1e-5)
    assert description["scale"] == pytest.approx(float(loaded.model.logit_scale.detach().exp()))
    assert (description["bias"] is None) == (getattr(loaded.model, "logit_bias", None) is None)


@pytest.mark.parametrize("kind", ["vit", "quickgelu"])
def test_open_clip_vit_becomes_a_clip_model_of_transformers(kind, tmp_path):
    """Logits, tokens and preprocessing of `CLIPModel` are ours."""
    transformers = pytest.importorskip("transformers")
    loaded = load(f"open_clip:{kind}")
    export_model(loaded, tmp_path / "hf", to="hf")
    theirs = transformers.CLIPModel.from_pretrained(tmp_path / "hf").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    captions = ["A photo, of 12 dogs!", "it's  naïve"]
    batch = tokenizer(captions, padding=True, return_tensors="pt")
    with torch.no_grad():
        image, text, scale = loaded.model(images(), loaded.tokenize(captions))
        logits = theirs(pixel_values=images(), **batch).logits_per_image
    torch.testing.assert_close(scale * image @ text.T, logits, rtol=0, atol=1e-5)
    assert load_model(tmp_path / "hf").image == loaded.image


@pytest.mark.parametrize("kind", ["proj-bias", "resnet", "custom-text", "siglip", "timm", "coca"])
def test_other_architectures_say_what_works(kind, tmp_path):
    """No half-right conversion."""
    pytest.importorskip("transformers")
    with pytest.raises(ArgumentError, match="use open_clip or onnx"):
        export_model(load(f"open_clip:{kind}"), tmp_path / "out", to="hf")


def test_same_family_is_written_and_read_back(tmp_path):
    """open_clip to open_clip with adapters merged, transformers to transformers."""
    pytest.importorskip("peft")
    loaded = load("open_clip:vit")
    add_lora(loaded.model, rank=2)
    for name, parameter in loaded.model.named_parameters():
        if ".lora_" in name:
            parameter.data.normal_(std=0.05)
    for to in ("open_clip", "hf"):
        export_model(loaded, tmp_path / to, to=to)
    export_model(load("hf:siglip"), tmp_path / "siglip", to="hf")
    with pytest.raises(ArgumentError, match="hf or onnx"):
        export_model(load("hf:siglip"), tmp_path / "none", to="open_clip")
    with pytest.raises(ArgumentError, match="use onnx"):
        export_model(load_model("tiny:random"), tmp_path / "none", to="hf")
    with pytest.raises(ArgumentError, match="in use"):
        export_model(loaded, tmp_path / "hf", to="hf")


def test_a_model_that_the_exporter_cannot_take_is_one_line(tmp_path, capfd):
    """A branch on a pixel's value has no graph; nothing is left behind, and the folder can be used again."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    loaded = load("open_clip:vit")
    encode = loaded.model.encode_image
    loaded.model.encode_image = lambda images, normalize=False: encode(
        images if images.mean().item() > 0 else -images, normalize
    )
    with pytest.raises(
        ArgumentError, match=r"exporter cannot turn its encode_image into a graph \(.+\); use"
    ) as caught:
        export_model(loaded, tmp_path / "out", to="onnx")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert list((tmp_path / "out").iterdir()) == []
    assert capfd.readouterr().out == ""


def test_difference_and_missing_package_are_errors(tmp_path, monkeypatch):
    """A wrong export is not kept quiet; the extra is named."""
    from tracerft.models import export

    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(DataError, match="not usable"):
        export_model(load("open_clip:vit"), tmp_path / "out")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"tracerft\[onnx\]"):
        export_model(load("open_clip:vit"), tmp_path / "onnx", to="onnx")
