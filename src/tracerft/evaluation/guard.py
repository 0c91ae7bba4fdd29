"""Which point of a front forgets little enough, and how much of the similarity of texts is kept.

Legend: C captions, D embedding size. Imports `errors` only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from statistics import fmean

import torch
from torch import Tensor

from tracerft.errors import ArgumentError, ShapeError

ROUNDING = 1e-9  # points; 100 * (0.60 - 0.58) is not 2 in floating point
TIE = ROUNDING / 100  # fractions; values this close are one


@dataclass(frozen=True)
class Point:
    """A model of the front and what it scores.

    Args:
        model: the end of the line that it lies on, such as ``student``; ``pretrained`` for the start.
        alpha: share of that end in [0, 1]; 0 for the start.
        accuracy: on held-out data of the finetuned task, in [0, 1].
        guards: value on each guard set, at most 1, higher is better.
    """

    model: str
    alpha: float
    accuracy: float
    guards: Mapping[str, float]


def drops(start: Point, point: Point) -> dict[str, float]:
    """How many points (hundredths) each guard set lost against the start; below 0 where it gained.

    Raises:
        ArgumentError: if the two were measured on different guard sets.
    """
    if set(start.guards) != set(point.guards):
        raise ArgumentError(
            f"`front` must be measured on one list of guard sets; got {', '.join(start.guards) or 'none'} for "
            f"{start.model} and {', '.join(point.guards) or 'none'} for {point.model}; measure all points alike"
        )
    return {name: 100 * (value - point.guards[name]) for name, value in start.guards.items()}


def keeps(start: Point, point: Point, max_drop: float) -> bool:
    """Whether no guard set lost more than ``max_drop`` points."""
    return all(drop <= max_drop + ROUNDING for drop in drops(start, point).values())


def guard_mean(point: Point) -> float:
    """Mean of the guard sets, each with the same weight whatever its size; 0 without any."""
    return fmean(point.guards.values()) if point.guards else 0.0


def worth(point: Point, rate: float) -> float:
    """Value of a point at an exchange rate: accuracy + rate * mean of the guard sets, as a fraction."""
    return point.accuracy + rate * guard_mean(point)


def choose(front: Sequence[Point], max_drop: float, rate: float = 0.0) -> Point:
    """The point that is worth most, see `worth`, of those that keep every guard set.

    Args:
        front: the start first, which always qualifies.
        max_drop: points that each guard set may lose, at least 0; infinite for no bound.
        rate: points of accuracy that one point of the mean of the guard sets is worth, at least 0; at 0 only accuracy
            counts.

    Returns:
        Of points of equal worth the one whose worst drop is least, then the first in ``front``.

    Raises:
        ArgumentError: if the front is empty, its points have different guard sets, ``max_drop`` is below 0, or
            ``rate`` is below 0 or not finite.

    Example:
        >>> start, end = Point("pretrained", 0, 0.5, {"a": 0.6}), Point("student", 1, 0.9, {"a": 0.5})
        >>> choose([start, end], 2.0).model, choose([start, end], 10.0).model
        ('pretrained', 'student')
    """
    if not front:
        raise ArgumentError("`front` must hold at least the start; got no point; measure the pretrained model first")
    if not max_drop >= 0:
        raise ArgumentError(f"`max_drop` must be at least 0 points; got {max_drop}; 2 is usual")
    if not 0 <= rate < inf:
        raise ArgumentError(f"`rate` must be finite and at least 0; got {rate}; 1 gives one point for one point")
    start = front[0]
    kept = [point for point in front if keeps(start, point, max_drop)]
    best = max(worth(point, rate) for point in kept)
    equal = [point for point in kept if worth(point, rate) >= best - TIE * (1 + rate)]
    return least_drop(start, equal)


def least_drop(start: Point, points: Sequence[Point]) -> Point:
    """The point whose worst drop is least, then the first; at least one is given."""
    return min(points, key=lambda point: max(drops(start, point).values(), default=0.0))


def text_structure(text: Tensor, start: Tensor) -> float:
    """How much of the similarity of captions to each other is kept: 1 - mean |cos - cos of the start| over pairs.

    That similarities among stimuli, not coordinates, are compared between two representations is representational
    similarity analysis (Kriegeskorte, Mur, Bandettini 2008); the mean absolute difference is ours, as it exists for two
    captions too and its unit is that of a cosine.

    Args:
        text: ``(C, D)`` unit-norm embeddings of captions.
        start: ``(C, D')`` of the same captions by the pretrained model.

    Returns:
        At most 1, which means that no similarity changed; 0.98 is a mean change of 0.02.

    Raises:
        ShapeError: if the two do not have the same number of rows, at least 2.
    """
    if text.ndim != 2 or start.ndim != 2 or len(text) != len(start) or len(text) < 2:
        raise ShapeError(
            f"`text` and `start` must be (C, D) of the same captions, at least 2; got {tuple(text.shape)} and "
            f"{tuple(start.shape)}; embed two or more captions with both models"
        )
    above = torch.ones(len(text), len(text), dtype=torch.bool).triu(1)
    now, then = ((rows.double() @ rows.double().T).cpu()[above] for rows in (text, start))
    return float(1 - (now - then).abs().mean())
