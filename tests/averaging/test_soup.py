"""Claims about soups: plain means, order, and what greed keeps."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from tests.averaging.test_merge import make_model
from tracerft.averaging import greedy_soup, uniform_soup
from tracerft.errors import ArgumentError, StateError


class Point(nn.Module):
    """One parameter, whose closeness to a goal is its score."""

    def __init__(self, *values):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(values))


def closeness(model):
    """Higher is better, best 0 at (1, 1); NaN weights give NaN."""
    return -float((model.w.detach() - 1).square().sum())


def test_a_soup_of_one_is_that_one_to_the_bit():
    """Modules and state dicts, all entries."""
    model = make_model(1)
    for soup in (uniform_soup([model]).state_dict(), uniform_soup([model.state_dict()])):
        assert all(torch.equal(soup[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("n", [2, 3, 7])
def test_uniform_is_the_plain_mean_with_integers_of_the_first(n):
    """Float64 loop over the entries, buffers included; BatchNorm's counter is copied."""
    models = [make_model(seed) for seed in range(1, n + 1)]
    states = [m.state_dict() for m in models]
    for soup in (uniform_soup(models).state_dict(), uniform_soup(states)):
        assert soup.keys() == states[0].keys()
        assert soup["1.num_batches_tracked"].item() == 1
        for name, tensor in soup.items():
            if tensor.is_floating_point():
                plain = sum(s[name].double() for s in states) / n
                torch.testing.assert_close(tensor, plain.float(), rtol=0, atol=1e-7)
                assert tensor.dtype == torch.float32


def test_uniform_does_not_depend_on_order():
    """Six orders of three models."""
    models = [make_model(seed) for seed in (1, 2, 3)]
    first = uniform_soup(models).state_dict()
    for order in itertools.permutations(models):
        for name, tensor in uniform_soup(order).state_dict().items():
            if tensor.is_floating_point():
                torch.testing.assert_close(tensor, first[name], rtol=0, atol=1e-7)


def test_entries_on_which_all_agree_stay_exact_and_sixteen_bits_are_rounded_once():
    """Three equal float64 numbers, a mask of -inf, and bfloat16 against the float64 mean."""
    w = torch.full((9,), 0.1, dtype=torch.float64)
    mask = torch.full((3, 3), -math.inf).triu(1)
    soup = uniform_soup([{"w": w, "mask": mask}] * 3)
    assert torch.equal(soup["w"], w)
    assert torch.equal(soup["mask"], mask)
    rows = torch.randn(5, 1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    soup = uniform_soup([{"w": row} for row in rows])["w"]
    assert torch.equal(soup, rows.double().mean(0).bfloat16())


def test_parents_are_left_alone():
    """Writing into the soup changes no parent."""
    models = [make_model(1), make_model(2)]
    before = copy.deepcopy(models[0].state_dict())
    soup = uniform_soup(models)
    for tensor in soup.state_dict().values():
        tensor.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in models[0].state_dict().items())


def test_greedy_never_falls_and_ends_at_least_at_the_best_single():
    """Random points; a record of every score that was kept."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        models = [Point(*torch.randn(2, generator=generator).tolist()) for _ in range(6)]
        soup, kept = greedy_soup(models, closeness)
        path = [closeness(uniform_soup([models[i] for i in kept[: n + 1]])) for n in range(len(kept))]
        assert path == sorted(path)
        assert path[0] == max(map(closeness, models))
        assert closeness(soup) == path[-1]


def test_greedy_by_hand():
    """On a line with the goal 1: 0.5 first, then 2 (mean 1.25), then 4 would lead away, -1 back to 0.5."""
    models = [Point(-1.0), Point(2.0), Point(0.5), Point(4.0)]
    soup, kept = greedy_soup(models, closeness)
    assert kept == (2, 1)
    assert soup.w.item() == 1.25


def test_a_broken_model_is_rejected():
    """Weights far away, and weights that are not numbers."""
    models = [Point(1.1, 1.0), Point(1000.0, 1.0), Point(math.nan, 1.0), Point(0.9, 1.0)]
    soup, kept = greedy_soup(models, closeness)
    assert set(kept) == {0, 3}
    assert soup.w.tolist() == pytest.approx([1.0, 1.0])
    with pytest.raises(ArgumentError, match="got NaN for all"):
        greedy_soup([models[2]], closeness)


def test_ties_are_kept_or_not():
    """Two models of one score whose mean scores the same."""
    models = [Point(0.0), Point(2.0)]
    assert greedy_soup(models, lambda _: 0.5)[1] == (0, 1)
    assert greedy_soup(models, lambda _: 0.5, ties=False)[1] == (0,)


def test_mistakes_are_refused():
    """No model, mixed kinds, another architecture."""
    with pytest.raises(ArgumentError, match="at least one model"):
        uniform_soup([])
    with pytest.raises(ArgumentError, match="at least one model"):
        greedy_soup([], closeness)
    with pytest.raises(ArgumentError, match="must all be modules or all be state dicts"):
        uniform_soup([nn.Linear(1, 1), {}, {}])
    with pytest.raises(StateError, match=r"`models\[2\]` has 'v' but `models\[0\]` does not"):
        uniform_soup([{"w": torch.zeros(1)}] * 2 + [{"w": torch.zeros(1), "v": torch.zeros(1)}])
