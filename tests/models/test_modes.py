"""Models that are only asked: what comes out does not depend on whether they are being trained."""

import pytest
import torch
from torch import nn

from tests.models.small import folder
from tracerft import load_model
from tracerft.models.modes import evaluating
from tracerft.models.zero_shot import encode_captions


def test_modes_and_trained_weights_are_given_back_after_an_error():
    """A model that trains in part, one that is asked already, and a weight that both have."""
    tower = nn.Linear(2, 2)
    training, asked = nn.Sequential(nn.Dropout(), tower), nn.Sequential(tower).eval()
    tower.bias.requires_grad_(False)
    before = _state(training, asked)
    inside = []

    def fail():
        with evaluating(training, asked):
            inside.extend(_state(training, asked))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (before, inside) == ([True, False, True, False], [False, False, False, False])
    assert _state(training, asked) == before


def _state(training, asked):
    return [training[0].training, asked.training, *(p.requires_grad for p in training[1].parameters())]


ALIKE = tuple(f"{which} of the {kind} {name}" for which in ("a photo", "art") for kind in "abc" for name in "xyz")


@pytest.mark.parametrize("captions", [("a cat", "no dog"), ALIKE], ids=["two", "shared prefixes"])
def test_captions_have_the_digits_of_a_frozen_model(captions):
    """Where torch 2.14 rounds otherwise for weights that require gradients, seen before `evaluating` froze them."""
    loaded = load_model(folder("vit"))
    embedded = []
    for trained in (True, False):
        loaded.model.requires_grad_(trained)
        embedded.append(encode_captions(loaded.model, loaded.tokenize, captions))
    assert torch.equal(*embedded)
