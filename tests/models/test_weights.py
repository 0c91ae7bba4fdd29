"""Models in and out of folders."""

import json

import pytest
import torch
from torch import nn

from tests.conftest import SMALL
from tracerft.errors import ArgumentError, DataError
from tracerft.models.tiny import TinyDualEncoder
from tracerft.models.weights import CONFIG, WEIGHTS, load_model, num_parameters, pick_device, save_model


def test_a_saved_model_comes_back_to_the_bit(tmp_path):
    """After every tensor was changed, so that no default can pass for it."""
    model = TinyDualEncoder(SMALL, seed=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    loaded = load_model(save_model(model, tmp_path / "a" / "b"))
    assert loaded.model.config == SMALL
    assert all(torch.equal(v, loaded.model.state_dict()[n]) for n, v in model.state_dict().items())
    assert loaded.tokenize(["a red digit"]).shape == (1, SMALL.context)
    assert loaded.source == str(tmp_path / "a" / "b")


def test_a_run_folder_is_its_student(tmp_path):
    """`student/` is looked for inside."""
    save_model(TinyDualEncoder(SMALL, seed=4), tmp_path / "student")
    assert torch.equal(load_model(tmp_path).model.visual.proj, TinyDualEncoder(SMALL, seed=4).visual.proj)


def test_tiny_random_is_keyed_by_the_seed():
    """The default size, other weights for another seed."""
    first, again, other = (load_model("tiny:random", seed=s).model for s in (1, 1, 2))
    assert torch.equal(first.visual.proj, again.visual.proj)
    assert not torch.equal(first.visual.proj, other.visual.proj)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "tiny:randm",
            r"neither a known name nor a folder; expected tiny, tiny:random.*did you mean 'tiny:random'\?",
        ),
        ("nowhere/at/all", "neither a known name nor a folder"),
    ],
)
def test_an_unknown_model_is_named(spec, message):
    """With the nearest name, if one is near."""
    with pytest.raises(ArgumentError, match=message):
        load_model(spec)


def test_a_folder_without_a_model_is_named(tmp_path):
    """An unfinished run, for instance."""
    with pytest.raises(ArgumentError, match="is a folder without a finished model"):
        load_model(tmp_path)


def describe(**changes):
    """Rewrite the description."""

    def damage(folder):
        path = folder / CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-10]), "not a whole safetensors file"),
        (lambda f: (f / WEIGHTS).write_bytes(b"\x80\x04pickle"), "not a whole safetensors file"),
        (lambda f: (f / WEIGHTS).unlink(), "not a whole safetensors file"),
        (lambda f: (f / CONFIG).write_text("{"), "not a model description"),
        (lambda f: (f / CONFIG).write_bytes(b"\xff\xfe"), "not a model description"),
        (lambda f: (f / CONFIG).write_text("[]"), "not a model description"),
        (describe(family="huge"), "unknown model family 'huge'"),
        (describe(model={"depth": 3}), "not a model description"),
        (describe(model={"width": 32, "heads": 2}), "weights do not fit the described model"),
    ],
)
def test_a_damaged_model_folder_is_a_data_error(damage, message, tmp_path):
    """One line that names the file or folder."""
    folder = save_model(TinyDualEncoder(SMALL), tmp_path / "model")
    damage(folder)
    with pytest.raises(DataError, match=message) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_that_cannot_describe_itself_is_not_saved(tmp_path):
    """Weights without a description would be of no use."""
    with pytest.raises(ArgumentError, match="`model` of type Linear cannot be saved"):
        save_model(nn.Linear(2, 2), tmp_path)


def test_parameters_are_counted_once():
    """Trained and total."""
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[2].weight = model[1].weight
    model[0].bias.requires_grad_(False)
    assert num_parameters(model) == (10, 12)


def test_a_device_that_is_not_there_is_named():
    """`auto` always works."""
    assert pick_device("cpu") == torch.device("cpu")
    assert isinstance(pick_device("auto"), torch.device)
    with pytest.raises(ArgumentError, match=r"`train\.device` 'gpu' cannot be used .*; try auto"):
        pick_device("gpu")
