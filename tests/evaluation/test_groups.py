"""Classwise and groupwise metrics against scikit-learn and plain loops."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from tracerft.errors import ArgumentError, ShapeError
from tracerft.evaluation.groups import (
    class_accuracies,
    group_table,
    macro_f1,
    summarise_groups,
    worst_group_accuracy,
)
from tracerft.evaluation.metrics import hits, mean_per_class


@pytest.fixture(scope="module")
def sample() -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Seven classes, the last absent from the labels but sometimes guessed; three uneven groups."""
    generator = torch.Generator().manual_seed(11)
    labels = torch.randint(0, 6, (500,), generator=generator)
    logits = torch.randn(500, 7, generator=generator)
    logits[torch.arange(500), labels] += 1.5
    groups = ["sea" if i % 50 == 0 else "land" if i % 3 else "air" for i in range(500)]
    return logits, labels, groups


def test_macro_f1_equals_scikit_learn(sample):
    """Over the classes that occur in the labels, as WILDS calls scikit-learn."""
    logits, labels, _ = sample
    guess = logits.argmax(1)
    assert bool((guess == 6).any())
    theirs = f1_score(labels, guess, average="macro", labels=torch.unique(labels).numpy())
    assert macro_f1(logits, labels) == pytest.approx(theirs, abs=1e-12)


def test_macro_f1_by_hand():
    """Labels 0 0 1, guesses 0 2 0: F1 of class 0 is 2 / (2 + 2), of class 1 zero; class 2 is not counted."""
    logits = torch.eye(3)[[0, 2, 0]]
    assert macro_f1(logits, torch.tensor([0, 0, 1])) == 0.25


def test_class_accuracies_equal_a_loop(sample):
    """None where there is no sample; their mean is mean_per_class."""
    logits, labels, _ = sample
    guess, found = logits.argmax(1), class_accuracies(logits, labels)
    assert found[6] is None
    for c in range(6):
        assert found[c] == pytest.approx(float((guess[labels == c] == c).double().mean()), abs=1e-12)
    assert np.mean(found[:6]) == pytest.approx(mean_per_class(logits, labels), abs=1e-12)


def test_group_table_equals_a_loop(sample):
    """Counts and accuracies of each group, sorted by name, JSON without help."""
    logits, labels, groups = sample
    table = group_table(logits, labels, groups)
    assert list(table) == ["air", "land", "sea"]
    correct = hits(logits, labels).tolist()
    for name, row in table.items():
        mine = [c for c, g in zip(correct, groups, strict=True) if g == name]
        assert (row["n"], row["top1"]) == (len(mine), pytest.approx(np.mean(mine), abs=1e-12))
        assert row["top1_ci95"][0] <= row["top1"] <= row["top1_ci95"][1]
    assert json.loads(json.dumps(table)) == table
    worst = summarise_groups(logits, labels, groups)
    assert worst["worst_group"] == min(row["top1"] for row in table.values())
    assert table[worst["worst_group_name"]]["top1"] == worst["worst_group"]
    assert worst_group_accuracy(logits, labels, groups) == worst["worst_group"]


def test_an_ignored_group_is_listed_but_never_the_worst():
    """FMoW's region Other."""
    logits, labels = torch.eye(2)[[0, 0, 1]], torch.tensor([0, 1, 1])
    result = summarise_groups(logits, labels, ["Asia", "Other", "Asia"], ignored=["Other"])
    assert (result["worst_group"], result["worst_group_name"]) == (1.0, "Asia")
    assert result["groups"]["Other"]["top1"] == 0.0
    with pytest.raises(ArgumentError, match="must leave a group"):
        summarise_groups(logits, labels, ["Other"] * 3, ignored=["Other"])


def test_ids_serve_as_groups(sample):
    """A tensor of ids and the names of the same ids give one table."""
    logits, labels, groups = sample
    ids = torch.tensor([["air", "land", "sea"].index(g) for g in groups])
    assert list(group_table(logits, labels, ids)) == ["0", "1", "2"]
    assert list(group_table(logits, labels, ids).values()) == list(group_table(logits, labels, groups).values())


def test_expected_groups_set_the_order_and_must_all_occur(sample):
    """A group without a sample has no accuracy: an error that names it, not a silent omission."""
    logits, labels, groups = sample
    assert list(group_table(logits, labels, groups, expected=["sea", "air", "land"])) == ["sea", "air", "land"]
    with pytest.raises(ArgumentError, match="no sample is in the groups space"):
        group_table(logits, labels, groups, expected=["sea", "air", "land", "space"])
    with pytest.raises(ArgumentError, match=r"has land, which `expected` lacks"):
        group_table(logits, labels, groups, expected=["sea", "air"])


def test_missing_groups_are_refused(sample):
    """Too few, or an empty cell, with its position."""
    logits, labels, groups = sample
    with pytest.raises(ShapeError, match="each of 500 samples; got 499"):
        group_table(logits, labels, groups[:-1])
    with pytest.raises(ArgumentError, match="2 of 500 are empty, the first at position 3"):
        group_table(logits, labels, [*groups[:3], " ", "", *groups[5:]])
