"""Sixty-four ranks in one process against plain autograd, and what each of them computes of the loss."""

import copy
import runpy
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from tests.losses.pairs import random_pairs
from tests.methods.test_contract import build
from tests.products import Products
from tests.training.ranks import LOSSES, Digits, rows_of
from tests.training.threads import on_threads
from tracerft.distributed import World
from tracerft.losses import TracerLoss, tiled
from tracerft.losses.contrastive import TARGETS
from tracerft.models.encoder import TwoTowers, embed
from tracerft.training.gradcache import Passes
from tracerft.training.ranks import sum_gradients
from tracerft.types import Embeddings

RANKS = 64
SIZES = [1, 0, 3, 2] * (RANKS // 4)  # of each rank; a quarter has none
DOUBLE = {"dtype": torch.float64}
EVERY = range(len(LOSSES))


class Towers(TwoTowers):
    """One product a tower: what is compared is all that lies between towers and gradients."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.visual = nn.Sequential(nn.AvgPool2d(7), nn.Flatten(), nn.Linear(48, 5, **DOUBLE))
        self.text = nn.EmbeddingBag(400, 5, **DOUBLE)
        self.logit_scale = nn.Parameter(torch.tensor(1.5, **DOUBLE))


def apart(number):
    """A student that has left its teacher, its method with this combination of terms, and one of the three targets."""
    names = ("fd", "crd", "icl", "cross_kd")
    targets = TARGETS[number % 3]
    method, model = build("tracer", loss=dict(zip(names, LOSSES[number], strict=True)) | {"targets": targets}), Towers()
    method.start(model, 10)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1), **DOUBLE))
    return model, method


def gradients(model, terms):
    """Loss, parts and gradients in one list."""
    return [terms.total.detach(), *terms.parts.values(), *(p.grad for p in model.parameters())]


def by_one(number, batch):
    """Plain autograd of whole blocks: none of the code that knows of ranks, chunks or tiles."""
    model, method = apart(number)
    references = {name: embed(m, batch) for name, m in method.references().items()}
    terms = method.objective(embed(model, batch), references, batch)
    terms.total.backward()
    return gradients(model, terms)


def by_many(started, batch, rank):
    """What one rank has after its passes and the sum, for every combination."""
    world, start, found = World(rank, RANKS), sum(SIZES[:rank]), []
    rows = slice(start, start + SIZES[rank]) if SIZES[rank] else slice(0, 1)
    for model, method in started:
        mine = copy.deepcopy(model)
        passes = Passes(
            model=mine,
            method=method,
            chunks=1,
            autocast=partial(torch.autocast, "cpu", torch.bfloat16, enabled=False),
            seed=lambda purpose: 0,
            rank=rank,
            sizes=SIZES,
        )
        terms = passes.backward(rows_of(batch, rows))
        sum_gradients(mine, world)
        found.append(gradients(mine, terms))
    return found


@pytest.mark.parametrize("losses", [EVERY[-1:], pytest.param(EVERY, marks=pytest.mark.slow)], ids=["one", "sixteen"])
@pytest.mark.parametrize("large", [4096, 1], ids=["whole loss on each", "loss shared out"])
def test_loss_and_gradients_on_64_ranks_are_those_of_one_process(large, losses):
    """All terms, and all sixteen combinations; uneven and empty ranks: 1e-12 of the largest gradient, the same bits."""
    batch = Digits(size=sum(SIZES)).batch(np.arange(sum(SIZES)), 0)
    expected, started = [by_one(number, batch) for number in losses], [apart(number) for number in losses]
    with mock.patch.object(tiled, "LARGE", large), mock.patch.multiple(tiled, BLOCK=sum(SIZES), LEAST=1):
        first, *others = on_threads(partial(by_many, started, batch), RANKS)
    for other in others:
        assert all(
            torch.equal(a, b) for mine, its in zip(first, other, strict=True) for a, b in zip(mine, its, strict=True)
        )
    for found, wanted in zip(first, expected, strict=True):
        largest = max(float(t.abs().max()) for t in wanted)
        worst = max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True))
        assert worst < 1e-12 * largest


def of_rank(num, rank):
    """Operations of one rank for the loss of gathered rows, and its total."""
    made = [random_pairs(seed, num=num, width=3) for seed in (0, 1)]
    student, teacher = (Embeddings(e.image, e.text, e.scale, gathered=True) for e in made)
    with Products() as counted:
        total = TracerLoss(tile=2)(student, teacher).total
        total.backward()
    return counted.operations, total.item()


def test_each_rank_does_its_share_of_the_operations_and_no_more():
    """32 pairs on 16 ranks: a 16th of what the manual's tables say of one; 18 pairs and 5 cannot be shared evenly."""
    of_one = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "scale.py"))["loss_operations"]
    for num, shares in ((32, [2] * 16), (18, [2] * 2 + [1] * 14), (5, [1] * 5 + [0] * 11)):
        operations, totals = zip(*on_threads(partial(of_rank, num), 16), strict=True)
        assert list(operations) == [of_one(num, 3) * rows // num for rows in shares]
        assert len(set(totals)) == 1


def test_rows_that_are_not_gathered_are_this_ranks_alone():
    """A loop that keeps to its own negatives stays as it was: each rank has another loss, and all of its work."""

    def alone(rank):
        pairs = random_pairs(rank, num=4, width=3)
        with Products() as counted:
            return TracerLoss(tile=2)(pairs, pairs).total.item(), counted.operations

    found = on_threads(alone, 2)
    assert found == [alone(0), alone(1)]
