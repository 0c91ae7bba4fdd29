"""What a run's record says of the line from its start to what came out: every point, and the one that is proposed.

Legend: n images. Imports its neighbours only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from torch import Tensor

from tracerft.evaluation.exchange import Piece, exchange_pieces
from tracerft.evaluation.guard import Point, choose, drops, guard_mean, keeps, worth
from tracerft.evaluation.statistics import paired_difference, wilson_interval

Scores = Mapping[str, Tensor]  # by guard set: what each image scores (n,), or one value for all texts (1,)


@dataclass(frozen=True)
class Measured:
    """A point with what it was computed from.

    Args:
        point: its means.
        hits: ``(n,)`` bool, on held-out images.
        scores: on the guard sets.
    """

    point: Point
    hits: Tensor
    scores: Scores


def measured(model: str, alpha: float, hits: Tensor, scores: Scores) -> Measured:
    """A point from what it scores; arguments as for `Point` and `Measured`."""
    return Measured(Point(model, alpha, float(hits.double().mean()), means(scores)), hits, scores)


def means(scores: Scores) -> dict[str, float]:
    """Value of each guard set."""
    return {name: float(of.double().mean()) for name, of in scores.items()}


def propose(
    front: Sequence[Measured], max_drop: float | None, rate: float | None = None
) -> tuple[Point, dict[str, Any]]:
    """Choose a point of a front, and describe both.

    With ``max_drop`` alone it is the most accurate of the points that keep every guard set; with ``rate`` alone the one
    with the largest ``accuracy + rate * mean of guard sets``; with both the largest of those that keep every set.

    Args:
        front: the start first.
        max_drop: points that each guard set may lose; ``None`` for no bound.
        rate: points of accuracy that one point of the mean of the guard sets is worth; ``None`` for 0.

    Returns:
        The point, and ``{"rule", "max_drop", "rate", "chosen", "only_start", "note", "front", "exchange"}``:
        accuracies, values and means are fractions, drops are points; of ``chosen`` also the gain in accuracy over the
        start and the drops with paired 95 % intervals, ``None`` where a value is of no sample. With a bound each point
        of the front says whether it ``keeps``, with a rate its ``value``. ``exchange`` is the point to take ``from``
        one exchange rate ``to`` another (``None``: to any higher), over the whole front whatever the bound.
    """
    points, bound = [of.point for of in front], inf if max_drop is None else max_drop
    point = choose(points, bound, rate or 0.0)
    start, chosen = front[0], next(of for of in front if of.point is point)
    gain = paired_difference(chosen.hits, start.hits)
    alone = sum(keeps(start.point, of, bound) for of in points) == 1
    bounded = max_drop is not None and (rate is None or alone)  # the rate had nothing to say
    described = {
        "rule": _rule(max_drop, rate),
        "max_drop": max_drop,
        "rate": rate,
        "chosen": {
            **_row(start, chosen, max_drop, rate),
            "gain": gain.difference,
            "gain_ci95": list(gain.ci95),
            "drops_ci95": {name: _drop_interval(start, chosen, name) for name in start.scores},
        },
        "only_start": alone,
        "note": _bound_note(point, bound, alone) if bounded else _rate_note(points, point, bound, rate or 0.0),
        "front": [_row(start, of, max_drop, rate) for of in front],
        "exchange": [_piece(piece) for piece in exchange_pieces(points)],
    }
    return point, described


def _piece(piece: Piece) -> dict[str, Any]:
    end = None if piece.end == inf else piece.end
    return {"from": piece.start, "to": end, "model": piece.point.model, "alpha": piece.point.alpha}


def _rule(max_drop: float | None, rate: float | None) -> str:
    """What the choice was, as the end of a sentence."""
    within = "" if max_drop is None else f" of the points within guard.max_drop {max_drop:g}"
    if rate is None:
        return f"the highest held-out accuracy{within}"
    return f"the largest held-out accuracy + guard.rate {rate:g} x mean of the guard sets{within}"


def _row(start: Measured, of: Measured, max_drop: float | None, rate: float | None) -> dict[str, Any]:
    point = of.point
    row = {
        "model": point.model,
        "alpha": point.alpha,
        "accuracy": point.accuracy,
        "accuracy_ci95": list(wilson_interval(int(of.hits.sum()), len(of.hits))),
        "guards": dict(point.guards),
        "mean": guard_mean(point),
        "drops": drops(start.point, point),
    }
    if rate is not None:
        row["value"] = worth(point, rate)
    return row if max_drop is None else row | {"keeps": keeps(start.point, point, max_drop)}


def _drop_interval(start: Measured, chosen: Measured, name: str) -> list[float] | None:
    first, second = start.scores[name], chosen.scores[name]
    return None if len(first) == 1 else [100 * edge for edge in paired_difference(first, second).ci95]


OPTIMISTIC = "Its accuracy is that of the images it was chosen on, so a little too high."


def _bound_note(point: Point, max_drop: float, only_start: bool) -> str:
    within = f"keeps every guard set within {max_drop:g} points of the pretrained model"
    if only_start:
        return f"No point but the pretrained model {within}; guarded is the pretrained model."
    if point.alpha == 0:
        return f"No point that {within} is more accurate than it; guarded is the pretrained model."
    return f"{_place(point)} is the most accurate point that {within}. {OPTIMISTIC}"


def _rate_note(front: Sequence[Point], point: Point, bound: float, rate: float) -> str:
    among = "" if bound == inf else f" of the points that keep every guard set within {bound:g} points of the start"
    terms = f"{100 * point.accuracy:.1f} held-out + {rate:g} x {100 * guard_mean(point):.1f} guarded"
    note = f"{_place(point)} is worth most{among} at guard.rate {rate:g}: {terms} = {100 * worth(point, rate):.1f}"
    note += "." if point.alpha == 0 else f", the pretrained model {100 * worth(front[0], rate):.1f}. {OPTIMISTIC}"
    free = choose(front, inf, rate)
    return note if free is point else f"{note} Without guard.max_drop it would be {_place(free, inside=True)}."


def _place(point: Point, *, inside: bool = False) -> str:
    """Where a point lies, at the start of a sentence or inside it."""
    if point.alpha == 0:
        return f"{'the' if inside else 'The'} pretrained model"
    if point.alpha == 1:
        return f"{'the' if inside else 'The'} {point.model} itself"
    return f"{point.alpha:g} of the way from the pretrained model to the {point.model}"
