"""Metrics that look at classes and groups one by one: macro-F1, classwise accuracy, the worst group.

Legend: n samples, C classes. Imports `errors`, `data.text` and its neighbours only.
"""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from tracerft.data.text import first_five
from tracerft.errors import ArgumentError, ShapeError, did_you_mean
from tracerft.evaluation.inputs import checked
from tracerft.evaluation.statistics import wilson_interval

Groups = Sequence[str] | Sequence[int] | Tensor


def class_accuracies(logits: Tensor, labels: Tensor) -> list[float | None]:
    """Accuracy of each class.

    Args:
        logits: ``(n, C)`` finite scores.
        labels: ``(n,)`` integer class ids in [0, C).

    Returns:
        C fractions in [0, 1]; ``None`` for a class without a sample.

    Raises:
        ShapeError: if the shapes do not fit.
        ArgumentError: if there is nothing to count, a label is out of range, or a score is not finite.
    """
    hits, _, counts = _per_class(logits, labels)
    return [h / n if n else None for h, n in zip(hits.tolist(), counts.tolist(), strict=True)]


def macro_f1(logits: Tensor, labels: Tensor) -> float:
    """F1 score of each class that occurs in ``labels``, averaged with equal weight.

    F1 of a class is 2 hits / (samples of the class + guesses of the class). Guesses of a class without a sample
    lower the F1 of the classes they are missing from, and are no class of their own; WILDS counts the same way.

    Args:
        logits: ``(n, C)`` finite scores.
        labels: ``(n,)`` integer class ids in [0, C).

    Returns:
        Fraction in [0, 1].

    Raises:
        ShapeError: if the shapes do not fit.
        ArgumentError: as in `class_accuracies`.

    Example:
        >>> round(macro_f1(torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 0.0]]), torch.tensor([0, 1, 1])), 4)
        0.6667
    """
    hits, guesses, counts = _per_class(logits, labels)
    present = counts > 0
    return float((2 * hits[present] / (guesses + counts)[present]).mean())


def group_table(
    logits: Tensor, labels: Tensor, groups: Groups, *, expected: Sequence[str] | None = None
) -> dict[str, dict[str, Any]]:
    """Size and accuracy of each group.

    Args:
        logits: ``(n, C)`` finite scores.
        labels: ``(n,)`` integer class ids in [0, C).
        groups: n names or ids: the group of each sample.
        expected: the groups there must be, in the order of the table; by default those that occur, sorted.

    Returns:
        ``{group: {"n": int, "top1": fraction, "top1_ci95": [low, high]}}``.

    Raises:
        ShapeError: if the lengths do not fit.
        ArgumentError: if a sample has no group, an expected group has no sample, or as in `class_accuracies`.
    """
    scores, labels = checked(logits, labels)
    names = _group_names(groups, len(labels))
    order = _group_order(names, expected)
    position = {name: i for i, name in enumerate(order)}
    index = torch.tensor([position[name] for name in names])
    correct = (scores.argmax(dim=1) == labels).cpu()
    sizes = torch.bincount(index, minlength=len(order)).tolist()
    hits = torch.bincount(index[correct], minlength=len(order)).tolist()
    return {
        name: {"n": n, "top1": h / n, "top1_ci95": list(wilson_interval(h, n))}
        for name, n, h in zip(order, sizes, hits, strict=True)
    }


def summarise_groups(
    logits: Tensor,
    labels: Tensor,
    groups: Groups,
    *,
    expected: Sequence[str] | None = None,
    ignored: Collection[str] = (),
) -> dict[str, Any]:
    """Worst group and table of all groups, in plain Python values.

    Args:
        logits: ``(n, C)`` finite scores.
        labels: ``(n,)`` integer class ids in [0, C).
        groups: n names or ids: the group of each sample.
        expected: the groups there must be; by default those that occur.
        ignored: groups that are in the table but cannot be the worst (``Other`` of FMoW).

    Returns:
        ``worst_group`` (fraction), ``worst_group_name`` (the first of equals) and ``groups`` (`group_table`).

    Raises:
        ShapeError: if the lengths do not fit.
        ArgumentError: if every group is ignored, or as in `group_table`.
    """
    table = group_table(logits, labels, groups, expected=expected)
    counted = [name for name in table if name not in ignored]
    if not counted:
        raise ArgumentError(f"`ignored` must leave a group; the samples have only {first_five(table)}; shorten it")
    worst = min(counted, key=lambda name: float(table[name]["top1"]))
    return {"worst_group": table[worst]["top1"], "worst_group_name": worst, "groups": table}


def worst_group_accuracy(
    logits: Tensor,
    labels: Tensor,
    groups: Groups,
    *,
    expected: Sequence[str] | None = None,
    ignored: Collection[str] = (),
) -> float:
    """Lowest accuracy of any group; arguments and errors of `summarise_groups`.

    Example:
        >>> worst_group_accuracy(torch.eye(2)[[0, 0, 1]], torch.tensor([0, 1, 1]), ["a", "a", "b"])
        0.5
    """
    return float(summarise_groups(logits, labels, groups, expected=expected, ignored=ignored)["worst_group"])


def _per_class(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hits, guesses and samples of each class, ``(C,)`` float64 each."""
    scores, labels = checked(logits, labels)
    guess = scores.argmax(dim=1)
    hits, guesses, counts = (
        torch.bincount(classes.cpu(), minlength=scores.shape[1]).double()
        for classes in (labels[guess == labels], guess, labels)
    )
    return hits, guesses, counts


def _group_names(groups: Groups, n: int) -> list[str]:
    values = groups.tolist() if isinstance(groups, Tensor) else list(groups)
    if len(values) != n:
        raise ShapeError(f"`groups` must name the group of each of {n} samples; got {len(values)}; check the column")
    names = ["" if value is None else str(value).strip() for value in values]
    if "" in names:
        raise ArgumentError(
            f"`groups` must name the group of each sample; {names.count('')} of {n} are empty, the first at position "
            f"{names.index('')}; fill the column"
        )
    return names


def _group_order(names: Sequence[str], expected: Sequence[str] | None) -> list[str]:
    found = set(names)
    if expected is None:
        return sorted(found)
    missing = [name for name in expected if name not in found]
    if missing:
        raise ArgumentError(
            f"no sample is in the groups {first_five(missing)}, so its accuracy is unknown; the samples have "
            f"{first_five(sorted(found))}; check the group column or shorten `expected`"
        )
    unknown = sorted(found - set(expected))
    if unknown:
        hint = did_you_mean(unknown[0], list(expected))
        raise ArgumentError(f"`groups` has {first_five(unknown)}, which `expected` lacks{hint}; add or correct it")
    return list(dict.fromkeys(expected))
