"""Which point of a front is worth most at an exchange rate between the finetuned task and what is guarded.

Imports its neighbours only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from tracerft.errors import ArgumentError
from tracerft.evaluation.guard import TIE, Point, guard_mean, least_drop


@dataclass(frozen=True)
class Piece:
    """The exchange rates at which one point is worth most.

    Args:
        start: least rate, at least 0.
        end: greatest rate, above ``start``; infinite for the last piece.
        point: what to take between the two; at a rate that two pieces share, both are worth the same.
    """

    start: float
    end: float
    point: Point


def exchange_pieces(front: Sequence[Point]) -> list[Piece]:
    """Every exchange rate with the point to take there.

    The value ``accuracy + R * mean of guard sets`` of a point is a line in R, so the best points form the upper
    envelope of these lines, along which the mean only grows. From the best line at R = 0 the walk goes on at its first
    crossing, ``R = (a_p - a_q) / (m_q - m_p)``, with any line that is steeper; of lines that cross there the steepest
    is taken.

    Args:
        front: the start first; means count as equal when they differ by 1e-11 or less.

    Returns:
        Pieces that cover [0, infinity) without a gap, one a point of the envelope. A point that is nowhere worth more
        than its neighbours has none.

    Raises:
        ArgumentError: if the front is empty, or its points have different guard sets.

    Example:
        >>> front = [Point("pretrained", 0, 0.5, {"a": 0.6}), Point("student", 1, 0.9, {"a": 0.4})]
        >>> [(piece.point.model, round(piece.start, 9)) for piece in exchange_pieces(front)]
        [('student', 0.0), ('pretrained', 2.0)]
    """
    if not front:
        raise ArgumentError("`front` must hold at least the start; got no point; measure the pretrained model first")
    highest = max(point.accuracy for point in front)
    # Just above R = 0 the mean decides between equally accurate points.
    at = _steepest(front[0], [point for point in front if point.accuracy >= highest - TIE])
    pieces, low = [], 0.0
    while crossings := [(_crossing(at, p), p) for p in front if guard_mean(p) > guard_mean(at) + TIE]:
        high = min(rate for rate, _ in crossings)
        pieces.append(Piece(low, high, at))
        together = [p for rate, p in crossings if rate <= high + TIE * (1 + high)]
        at, low = _steepest(front[0], together), high
    return [*pieces, Piece(low, inf, at)]


def _crossing(flat: Point, steep: Point) -> float:
    """Rate above which ``steep`` is worth more than ``flat``, which is worth more below."""
    return (flat.accuracy - steep.accuracy) / (guard_mean(steep) - guard_mean(flat))


def _steepest(start: Point, points: Sequence[Point]) -> Point:
    """The point with the greatest mean; of equals the one with the least worst drop, then the first."""
    greatest = max(guard_mean(point) for point in points)
    level = [point for point in points if guard_mean(point) >= greatest - TIE]
    return least_drop(start, level)
