"""Points of a line, made when they are asked: the answers of models that all are there, in the room that there is."""

import weakref

import numpy as np
import pytest
import torch

from tests.conftest import SMALL
from tracerft.averaging import interpolate
from tracerft.data.suite import Split
from tracerft.evaluating import wise_path
from tracerft.evaluation import points
from tracerft.evaluation.suite import evaluate_models
from tracerft.models.tiny import TinyDualEncoder, tokenize

PROMPTS = [["zero"], ["one"], ["two"]]


class Images:
    """Two batches of three random images."""

    def image_batches(self):
        """The same each time."""
        generator = torch.Generator().manual_seed(0)
        for _ in range(2):
            yield torch.rand(3, 3, 28, 28, generator=generator)


def ends():
    """Two models, the second of which is being trained."""
    return TinyDualEncoder(SMALL, seed=0).eval(), TinyDualEncoder(SMALL, seed=1).train()


@pytest.mark.parametrize("room", [0, 1, 3])
def test_a_sweep_has_the_numbers_of_models_that_all_are_there(room, monkeypatch):
    """To the bit, by `interpolate`; one model more than there is room for lives at a time, or each is made once."""
    start, end = ends()
    living, most = weakref.WeakSet(), []

    def counted(*arguments):
        living.add(made := interpolate(*arguments))
        most.append(len(living))
        return made

    monkeypatch.setattr(points, "interpolate", counted)
    monkeypatch.setattr(points, "KEPT_BYTES", room * sum(t.nbytes for t in start.state_dict().values()))
    split = Split(Images(), np.array([0, 1, 2, 2, 1, 0]), PROMPTS, classes=("0", "1", "2"))
    models = {"start": start, **wise_path("end", start, end, 5), "end": end}
    found = evaluate_models(models, {"id": split}, lambda texts: tokenize(texts, SMALL.context))
    expected = {f"end-wise-{a:.2f}": interpolate(start, end, a).eval() for a in (0.25, 0.5, 0.75)}
    assert list(found) == ["start", *expected, "end"]
    whole = evaluate_models(expected, {"id": split}, lambda texts: tokenize(texts, SMALL.context))
    assert {name: found[name] for name in whole} == whole
    assert len({of["id"]["nll"] for of in found.values()}) == 5
    assert max(most) == min(room + 1, 3)
    assert len(most) == 3 if room == 3 else len(most) >= (3 - room) * 2  # points without room, batches


def test_a_point_is_asked_and_not_trained():
    """Whatever its end is at."""
    start, end = ends()
    point = points.Line(start, end).point(0.5)
    assert not point.training
    assert not any(p.requires_grad for p in point.parameters())
    assert end.training
    assert all(p.requires_grad for p in end.parameters())
