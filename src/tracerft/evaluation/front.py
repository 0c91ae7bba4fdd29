"""What a run's record says of the line from its start to what came out: every point, and the one that is proposed.

Legend: n images. Imports its neighbours only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tracerft.evaluation.guard import Point, choose, drops, keeps
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


def propose(front: Sequence[Measured], max_drop: float) -> tuple[Point, dict[str, Any]]:
    """Choose a point of a front, and describe both.

    Args:
        front: the start first.
        max_drop: points that each guard set may lose.

    Returns:
        The point, and ``{"max_drop", "chosen", "only_start", "note", "front"}``: accuracies and values are fractions,
        drops are points; of ``chosen`` also the gain in accuracy over the start and the drops with paired 95 %
        intervals, ``None`` where a value is of no sample.
    """
    point = choose([of.point for of in front], max_drop)
    start, chosen = front[0], next(of for of in front if of.point is point)
    kept = [keeps(start.point, of.point, max_drop) for of in front]
    gain = paired_difference(chosen.hits, start.hits)
    described = {
        "max_drop": max_drop,
        "chosen": {
            **_row(start, chosen),
            "gain": gain.difference,
            "gain_ci95": list(gain.ci95),
            "drops_ci95": {name: _drop_interval(start, chosen, name) for name in start.scores},
        },
        "only_start": sum(kept) == 1,
        "note": _note(point, max_drop, only_start=sum(kept) == 1),
        "front": [_row(start, of) | {"keeps": k} for of, k in zip(front, kept, strict=True)],
    }
    return point, described


def _row(start: Measured, of: Measured) -> dict[str, Any]:
    point = of.point
    return {
        "model": point.model,
        "alpha": point.alpha,
        "accuracy": point.accuracy,
        "accuracy_ci95": list(wilson_interval(int(of.hits.sum()), len(of.hits))),
        "guards": dict(point.guards),
        "drops": drops(start.point, point),
    }


def _drop_interval(start: Measured, chosen: Measured, name: str) -> list[float] | None:
    first, second = start.scores[name], chosen.scores[name]
    return None if len(first) == 1 else [100 * edge for edge in paired_difference(first, second).ci95]


def _note(point: Point, max_drop: float, *, only_start: bool) -> str:
    within = f"keeps every guard set within {max_drop:g} points of the pretrained model"
    if only_start:
        return f"No point but the pretrained model {within}; guarded is the pretrained model."
    if point.alpha == 0:
        return f"No point that {within} is more accurate than it; guarded is the pretrained model."
    where = f"{point.alpha:g} of the way from the pretrained model to the {point.model}"
    return (
        f"{where if point.alpha < 1 else f'The {point.model} itself'} is the most accurate point that "
        f"{within}. Its accuracy is that of the images it was chosen on, so a little too high."
    )
