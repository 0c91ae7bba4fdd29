"""Exchange rates: the envelope against a search over rates, and fronts worked out by hand."""

import math
from itertools import pairwise

import numpy as np
import pytest

from tracerft.errors import ArgumentError
from tracerft.evaluation.exchange import exchange_pieces
from tracerft.evaluation.guard import Point


def front_of(values):
    """Points from (accuracy, values of the guard sets)."""
    points = [(f"p{i}", accuracy, guards) for i, (accuracy, guards) in enumerate(values)]
    return [Point(name, 1.0, accuracy, dict(enumerate(guards))) for name, accuracy, guards in points]


def pieces_of(values):
    """(name, start, end) of each piece."""
    return [(piece.point.model, piece.start, piece.end) for piece in exchange_pieces(front_of(values))]


@pytest.mark.parametrize("seed", range(20))
def test_the_envelope_is_what_a_search_over_rates_finds(seed):
    """From: the best of all points at each of 400 rates in a plain loop, and at both sides of every breakpoint.

    Values are shares of 20 images, so that many points are equal and many lines meet in one point.
    """
    rng = np.random.default_rng(seed)
    values = [(rng.integers(0, 21) / 20, (rng.integers(0, 21) / 20, rng.integers(0, 11) / 10)) for _ in range(21)]
    pieces = pieces_of(values)
    assert (pieces[0][1], pieces[-1][2]) == (0.0, math.inf)
    assert all(before[2] == after[1] for before, after in pairwise(pieces))
    assert all(start < end for _, start, end in pieces)
    edges = [end for _, _, end in pieces[:-1]]
    rates = [*rng.uniform(0, 20, 390), *(edge * (1 + sign * 1e-6) for edge in edges for sign in (-1, 1)), 1e6]
    for rate in rates:
        worths = [accuracy + rate * sum(guards) / len(guards) for accuracy, guards in values]
        (name,) = [name for name, start, end in pieces if start <= rate < end]
        assert worths[int(name[1:])] >= max(worths) - 1e-12 * (1 + rate)
    for (first, _, edge), (second, _, _) in pairwise(pieces):
        one, two = (values[int(name[1:])] for name in (first, second))
        assert one[0] + edge * np.mean(one[1]) == pytest.approx(two[0] + edge * np.mean(two[1]), abs=1e-9)
        assert np.mean(two[1]) > np.mean(one[1])


def test_three_lines_through_one_point_give_one_breakpoint():
    """From hand: 0.9 + 0.4 R, 0.7 + 0.5 R and 0.5 + 0.6 R meet at R = 2; the middle one is nowhere worth more."""
    pieces = pieces_of([(0.5, (0.6,)), (0.7, (0.5,)), (0.9, (0.4,))])
    assert [(name, round(start, 9)) for name, start, _ in pieces] == [("p2", 0.0), ("p0", 2.0)]


def test_a_point_that_is_best_in_both_is_the_only_one():
    """Whatever the rate; of equally accurate points the mean decides, of equal ones the first is taken."""
    assert pieces_of([(0.5, (0.6,)), (0.9, (0.6,)), (0.9, (0.7,)), (0.9, (0.7,))]) == [("p2", 0.0, math.inf)]
    assert pieces_of([(0.5, ()), (0.6, ())]) == [("p1", 0.0, math.inf)]


def test_of_points_worth_the_same_the_worst_drop_decides():
    """As in `choose`: means of 0.65 both, drops by hand 20 and -10 or 5 and 5 points."""
    start = (0.5, (0.7, 0.7))
    assert pieces_of([start, (0.9, (0.5, 0.8)), (0.9, (0.65, 0.65))])[0][0] == "p2"
    assert pieces_of([start, (0.9, (0.65, 0.65)), (0.9, (0.65, 0.65))])[0][0] == "p1"


def test_an_empty_front_is_named():
    """One line."""
    with pytest.raises(ArgumentError, match="`front` must hold at least the start"):
        exchange_pieces([])
