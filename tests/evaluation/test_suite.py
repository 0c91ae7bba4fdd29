"""Models and splits to metrics: what is made once, and what each kind of split gives."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.conftest import SMALL
from tracerft.data.listed import LogitMap
from tracerft.data.suite import Split
from tracerft.evaluation.groups import summarise_groups
from tracerft.evaluation.metrics import summarise
from tracerft.evaluation.retrieval import retrieval_recall
from tracerft.evaluation.suite import Predictor, evaluate_models
from tracerft.models.tiny import TinyDualEncoder, tokenize
from tracerft.models.weights import load_tensors
from tracerft.models.zero_shot import encode_captions, zero_shot_head, zero_shot_logits

PROMPTS = (("a zero", "the digit zero"), ("a one",), ("a two",))


class Counted:
    """Seven random images, in batches of four; counts how often they are asked for."""

    sha256 = "0"

    def __init__(self) -> None:
        self.pixels = torch.rand(7, 3, 28, 28, generator=torch.Generator().manual_seed(2))
        self.times = 0

    def __len__(self) -> int:
        return len(self.pixels)

    def image_batches(self):
        """Two batches."""
        self.times += 1
        yield from torch.split(self.pixels, 4)


class Telling:
    """A tokenizer that remembers how often it was called."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, texts):
        """Token ids."""
        self.calls += 1
        return tokenize(texts, SMALL.context)


@pytest.fixture
def models():
    """Two that differ."""
    return {"a": TinyDualEncoder(SMALL, seed=1), "b": TinyDualEncoder(SMALL, seed=2)}


@pytest.fixture
def split():
    """Labelled, three classes."""
    return Split(Counted(), np.array([0, 1, 2, 0, 1, 2, 0]), PROMPTS)


def test_logits_are_those_of_the_plain_way(models, split):
    """Head and images put together as `zero_shot` does, whatever the batches; metrics are `summarise`'s."""
    predictor, telling = Predictor(models, Telling()), Telling()
    for name, model in models.items():
        plain = zero_shot_logits(model, split.images.pixels, zero_shot_head(model, telling, PROMPTS))
        torch.testing.assert_close(predictor.logits(name, split), plain, rtol=0, atol=1e-5)
        metrics, kept = predictor.score(name, split)
        assert metrics == summarise(kept["logits"], torch.tensor(split.labels))


def test_images_and_heads_are_made_once_for_all_that_asks(models, split):
    """Three splits of the same images, two of them with the same classes."""
    same = replace(split, labels=split.labels[::-1].copy())
    other = replace(split, prompts=(*PROMPTS, ("a three",)))
    told = Split(split.images, None, [("x",), ("y",)], [[0], [1], [0], [0, 1], [1], [1], [0]])
    telling = Telling()
    found = evaluate_models(models, {"id": split, "same": same, "other": other, "told": told}, telling)
    assert split.images.times == 1
    assert telling.calls == 3 * len(models)
    assert all(list(of_model) == ["id", "same", "other", "told"] for of_model in found.values())
    assert found["a"] != found["b"]


def test_a_logit_map_comes_before_everything(models, split):
    """The largest of the sources of a class: two scored classes out of three."""
    mapped = replace(split, labels=np.array([0, 1, 1, 0, 1, 1, 0]), logit_map=LogitMap(3, ((0,), (1, 2))))
    predictor = Predictor(models, Telling())
    whole, two = predictor.logits("a", split), predictor.logits("a", mapped)
    assert torch.equal(two, torch.stack([whole[:, 0], whole[:, 1:].amax(1)], 1))
    assert predictor.score("a", mapped)[0] == summarise(two, torch.tensor(mapped.labels))


def test_groups_and_metric_are_told_where_a_split_has_them(models, split):
    """Beside the usual fields."""
    groups = ("x", "y", "x", "z", "y", "x", "z")
    asks = replace(split, groups=groups, ignored_groups=("z",), metric="worst_group")
    metrics, kept = Predictor(models, Telling()).score("a", asks)
    of_groups = summarise_groups(kept["logits"], kept["labels"], groups, ignored=("z",))
    assert metrics == summarise(kept["logits"], kept["labels"]) | of_groups | {"metric": "worst_group"}
    assert metrics["worst_group_name"] in ("x", "y")
    assert set(metrics["groups"]) == {"x", "y", "z"}
    assert not {"metric", "groups"} & set(Predictor(models, Telling()).score("a", split)[0])


def test_a_split_without_labels_is_retrieved(models, split, tmp_path):
    """Recall of the kept embeddings."""
    positives = [[0], [1], [0], [0, 1], [1], [2], [0]]
    told = Split(split.images, None, [("x",), ("y",), ("a much longer z",)], positives)
    found = evaluate_models(models, {"id": split, "told": told}, Telling(), tmp_path)
    for name, model in models.items():
        kept = load_tensors(tmp_path / name / "told.safetensors")
        torch.testing.assert_close(kept["text"], encode_captions(model, Telling(), ["x", "y", "a much longer z"]))
        assert found[name]["told"] == {"n": 7} | retrieval_recall(kept["image"], kept["text"], positives)
        kept = load_tensors(tmp_path / name / "id.safetensors")
        right = (kept["logits"].argmax(1) == torch.tensor(split.labels)).float().mean()
        assert found[name]["id"]["top1"] == pytest.approx(right.item())


def test_models_stay_in_the_mode_they_were_in(models, split):
    """They are evaluated in evaluation mode and no gradient is kept."""
    seen = []
    models["a"].train()
    models["b"].eval()
    models["a"].visual.register_forward_hook(lambda module, *_: seen.append(module.training))
    found = Predictor(models, Telling()).images(split)
    assert seen == [False, False]
    assert (models["a"].training, models["b"].training) == (True, False)
    assert not found["a"].requires_grad
    torch.testing.assert_close(found["a"].norm(dim=1), torch.ones(7))
