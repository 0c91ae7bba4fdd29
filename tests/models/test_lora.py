"""Adapters that learn, merge to the same model, and are averaged exactly."""

import copy
import sys

import pytest
import torch
from torch import nn

pytest.importorskip("peft")

from tests.models.small import CAPTIONS, OPEN_CLIP, folder, hf_folder, images, stock
from tracerft import WMATeacher, load_model, save_model
from tracerft.averaging import beta_kernel
from tracerft.errors import ArgumentError, MissingExtraError, StateError
from tracerft.evaluation.dynamics import drift
from tracerft.models.effective import effective, effective_state, unadapted
from tracerft.models.encoder import freeze
from tracerft.models.lora import add_lora, has_lora, merge_lora
from tracerft.models.weights import num_parameters

MODELS = ("tiny:random", *(f"open_clip:local-dir:{kind}" for kind in OPEN_CLIP), "hf:clip", "hf:siglip")


def load(spec):
    """A small model; the last part of the name stands for its folder."""
    family, _, kind = spec.rpartition(":")
    if spec == "tiny:random":
        return load_model(spec)
    return load_model(f"{family}:{folder(kind) if family.startswith('open_clip') else hf_folder(kind)}")


def outputs(model, loaded):
    """Both embeddings of some images and captions."""
    size = 28 if loaded.image is None else loaded.image.size[0]
    pixels = images(2, size)
    with torch.no_grad():
        return torch.cat([model.encode_image(pixels), model.encode_text(loaded.tokenize(list(CAPTIONS)[:2]))])


def shake(model, seed):
    """What a step of training might do to the factors."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and ".lora_" in name:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("spec", MODELS)
@pytest.mark.parametrize("preset", ["attention-mlp", "attention", "mlp"])
def test_presets_pass_the_check_and_change_nothing_at_first(spec, preset):
    """On every family; the start is the pretrained model, bitwise, and only factors train."""
    loaded = load(spec)
    towers = "text" if "resnet" in spec else "both"
    before = outputs(loaded.model, loaded)
    model = add_lora(loaded.model, preset, rank=2, towers=towers)
    assert model is loaded.model
    assert torch.equal(outputs(model, loaded), before) or (outputs(model, loaded) - before).abs().max() < 1e-5
    assert all(".lora_" in name for name, p in model.named_parameters() if p.requires_grad)
    assert 0 < num_parameters(model)[0] < num_parameters(model)[1]


@pytest.mark.parametrize("spec", MODELS)
def test_merged_model_is_the_adapted_one(spec, tmp_path):
    """1e-5, with the names and shapes of the model without adapters; a saved model is merged."""
    loaded = load(spec)
    names = {name: p.shape for name, p in loaded.model.named_parameters()}
    add_lora(loaded.model, rank=2, towers="text" if "resnet" in spec else "both")
    start = outputs(loaded.model, loaded)
    shake(loaded.model, 1)
    adapted = outputs(loaded.model, loaded)
    assert (adapted - start).abs().max() > 1e-3
    save_model(loaded.model, tmp_path)
    assert has_lora(loaded.model)
    torch.testing.assert_close(outputs(load_model(tmp_path).model, loaded), adapted, rtol=0, atol=1e-5)
    merged = merge_lora(loaded.model)
    assert not has_lora(merged)
    assert {name: p.shape for name, p in merged.named_parameters()} == names
    torch.testing.assert_close(outputs(merged, loaded), adapted, rtol=0, atol=1e-5)


def test_fused_attention_uses_the_effective_weights_once_and_leaves_w0_alone():
    """Peft 0.21 adds the output projection's update twice and lets W0 drift; ours is W0 + alpha/r BA, W0 bitwise."""
    loaded = load("open_clip:local-dir:vit")
    add_lora(loaded.model, "attention", rank=2)
    shake(loaded.model, 1)
    frozen = {name: p for name, p in loaded.model.named_parameters() if not p.requires_grad}
    copies = {name: p.clone() for name, p in frozen.items()}
    reference = stock("vit")
    missing = reference.load_state_dict(effective_state(loaded.model), strict=False)
    assert not missing.unexpected_keys
    for _ in range(3):
        loaded.model(images(), loaded.tokenize(CAPTIONS))
    torch.testing.assert_close(outputs(loaded.model, loaded), outputs(reference, loaded), rtol=0, atol=1e-5)
    now = dict(loaded.model.named_parameters())
    assert all(now[name] is frozen[name] and torch.equal(now[name], copies[name]) for name in frozen)


def test_gradients_of_factors_are_those_of_the_effective_weight():
    """dL/dB = alpha/r dL/dW A^T in the fused attention, input and output projection."""
    loaded = load("open_clip:local-dir:vit")
    add_lora(loaded.model, "attention", rank=2, alpha=6.0)
    shake(loaded.model, 1)
    plain = merge_lora(copy.deepcopy(loaded.model)).requires_grad_(True)
    for model in (loaded.model, plain):
        model.encode_image(images(), normalize=True)[:, :3].sum().backward()
    adapted = loaded.model.visual.transformer.resblocks[0].attn
    whole = plain.visual.transformer.resblocks[0].attn
    for layer, weight in ((adapted, whole.in_proj_weight), (adapted.base_layer.out_proj, whole.out_proj.weight)):
        expected = 3.0 * weight.grad @ layer.lora_A["default"].weight.T
        torch.testing.assert_close(layer.lora_B["default"].weight.grad, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("spec", "targets"),
    [
        ("open_clip:local-dir:vit", r".*out_proj"),
        ("hf:siglip", r".*(q_proj|out_proj)"),
    ],
)
def test_adapters_that_nothing_reads_are_refused(spec, targets):
    """`out_proj` of fused attention and of SigLIP's pooling head take no part in the forward pass."""
    model = load(spec).model
    with pytest.raises(ArgumentError, match="get no gradient and would never train"):
        add_lora(model, targets=targets)
    assert not has_lora(model)
    assert all(p.requires_grad for p in model.parameters())


def test_merge_that_changes_the_output_is_refused():
    """A layer whose adapter acts otherwise than its weight is caught before training."""

    class Twice(nn.Linear):
        def forward(self, x):
            return super().forward(2 * x)

    model = load("tiny:random").model
    model.visual.blocks[0].out = Twice(64, 64)
    with pytest.raises(ArgumentError, match="cannot be merged"):
        add_lora(model)


def test_logit_scale_trains_only_on_request():
    """Peft freezes it silently; here it is said."""
    for spec in ("open_clip:local-dir:timm", "hf:siglip", "hf:clip"):
        assert not add_lora(load(spec).model, rank=2).logit_scale.requires_grad
        model = add_lora(load(spec).model, rank=2, train_logit_scale=True)
        assert model.logit_scale.requires_grad
        assert model.logit_bias is None or model.logit_bias.requires_grad


def test_one_tower_alone():
    """The other tower has no adapters and stays frozen; a tower without matching layers is an error."""
    model = add_lora(load("open_clip:local-dir:vit").model, rank=2, towers="image")
    assert {name.startswith("visual.") for name, p in model.named_parameters() if p.requires_grad} == {True}
    freeze(model, "text")
    with pytest.raises(ArgumentError, match="finds no layer in the image tower"):
        add_lora(load("open_clip:local-dir:resnet").model)


def test_wrong_values_are_named(monkeypatch):
    """Rank, preset, adapters twice, no peft."""
    model = load("tiny:random").model
    with pytest.raises(ArgumentError, match="did you mean 'attention'"):
        add_lora(model, "atention")
    with pytest.raises(ArgumentError, match="rank=0"):
        add_lora(model, rank=0)
    with pytest.raises(StateError, match="adapters already"):
        add_lora(add_lora(model))
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"tracerft\[lora\]"):
        add_lora(load("tiny:random").model)


@pytest.mark.parametrize("trainable_only", [False, True])
@pytest.mark.parametrize("spec", ["open_clip:local-dir:vit", "hf:siglip", "tiny:random"])
def test_teacher_averages_products_exactly(spec, trainable_only):
    """The teacher is the offline float64 average of W0 + alpha/r BA under the kernel's weights."""
    loaded, steps = load(spec), 4
    model = add_lora(loaded.model, rank=2, train_logit_scale=True)
    kernel = beta_kernel(0.5, 0.5)
    teacher = WMATeacher(unadapted(model), steps, kernel, trainable_only=trainable_only)
    snapshots = [{name: t.double() for name, t in effective_state(model).items()}]
    shares = [1.0]
    for step in range(1, steps + 1):
        shake(model, step)
        model.logit_scale.data += 0.01
        before = teacher.pretrained_weight
        teacher.update(effective(model))
        keep = teacher.pretrained_weight / before
        shares = [share * keep for share in shares] + [1 - keep]
        snapshots.append({name: t.double() for name, t in effective_state(model).items()})
    averaged = dict(teacher.averaged.named_parameters())
    assert set(averaged) == set(snapshots[0])
    for name, tensor in averaged.items():
        offline = sum(share * snapshot[name] for share, snapshot in zip(shares, snapshots, strict=True))
        torch.testing.assert_close(tensor.double(), offline, rtol=0, atol=1e-6)
    assert not has_lora(teacher.averaged)
    teacher(images(2, 28 if loaded.image is None else 32), loaded.tokenize(CAPTIONS[:2]))


def test_drift_counts_what_adapters_add():
    """Nothing has moved at first; then the blocks of the adapted tower have, and only these."""
    start, model = load("tiny:random").model, add_lora(load("tiny:random").model, rank=2, towers="text")
    assert set(drift(start, model).values()) == {0.0}
    shake(model, 1)
    moved = {layer for layer, value in drift(start, model).items() if value}
    assert moved
    assert all(layer.startswith("text.blocks.") for layer in moved)


def test_average_of_factors_is_another_model():
    """Averaging A and B (``trainable_only`` on the adapted model itself) is not averaging their products."""
    loaded, steps = load("open_clip:local-dir:vit"), 4
    model = add_lora(loaded.model, rank=2)
    products = WMATeacher(unadapted(model), steps, trainable_only=True)
    factors = WMATeacher(model, steps, trainable_only=True)
    for step in range(1, steps + 1):
        shake(model, step)
        products.update(effective(model))
        factors.update(model)
    exact, cheap = products.averaged.state_dict(), effective_state(factors.averaged)
    name = "visual.transformer.resblocks.0.attn.in_proj_weight"
    assert (exact[name] - cheap[name]).abs().max() > 1e-3
    assert torch.equal(exact["visual.conv1.weight"], cheap["visual.conv1.weight"])


def test_without_adapters_the_model_itself_is_read():
    """One code path for methods, adapted or not."""
    model = load("tiny:random").model
    assert unadapted(model) is model
    assert effective(model) is model


def test_training_resumes_from_a_state_dict():
    """An adapted model's state goes into a fresh adapted model bitwise."""
    loaded, other = load("open_clip:local-dir:vit"), load("open_clip:local-dir:vit")
    add_lora(loaded.model, rank=2)
    shake(loaded.model, 5)
    loaded.model(images(), loaded.tokenize(CAPTIONS))
    add_lora(other.model, rank=2)
    other.model.load_state_dict(loaded.model.state_dict())
    assert torch.equal(outputs(other.model, loaded), outputs(loaded.model, loaded))
