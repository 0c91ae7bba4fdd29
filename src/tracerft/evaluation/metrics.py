"""Metrics as pure functions of logits and labels: accuracy, calibration, likelihood.

Legend: n samples, C classes. Sums run in float64, softmax in float32 or wider. Imports `errors` and neighbours only.
"""

from typing import Literal

import torch
from torch import Tensor

from tracerft.errors import ArgumentError, one_of
from tracerft.evaluation.calibration import binned_gap, binned_gap_per_batch
from tracerft.evaluation.groups import macro_f1
from tracerft.evaluation.inputs import as_probabilities, checked
from tracerft.evaluation.statistics import wilson_interval

# The published evaluation loops average the calibration error over batches; 512 is their ViT-B/16 batch.
PUBLISHED_BATCH_SIZE = 512


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Fraction of samples whose largest score is the label's; equal scores go to the lowest class.

    Args:
        logits: ``(n, C)`` finite scores; probabilities give the same answer.
        labels: ``(n,)`` integer class ids in [0, C).

    Returns:
        Fraction in [0, 1].

    Raises:
        ShapeError: if the shapes do not fit.
        ArgumentError: if there is nothing to count, a label is out of range, or a score is not finite.

    Example:
        >>> accuracy(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
        0.5
    """
    return _mean(hits(logits, labels))


def hits(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether each sample's largest score is the label's: what `paired_difference` compares.

    Args:
        logits: ``(n, C)`` finite scores.
        labels: ``(n,)`` integer class ids in [0, C).

    Returns:
        ``(n,)`` bool, on the logits' device.

    Raises:
        ShapeError: if the shapes do not fit.
        ArgumentError: as in `accuracy`.
    """
    scores, labels = checked(logits, labels)
    return scores.argmax(dim=1) == labels


def top_k(logits: Tensor, labels: Tensor, k: int = 5) -> float:
    """Fraction of samples whose label is among the ``k`` largest scores.

    Args:
        logits: ``(n, C)`` finite scores.
        labels: ``(n,)`` integer class ids in [0, C).
        k: how many guesses count, 1 to C.

    Returns:
        Fraction in [0, 1].

    Raises:
        ArgumentError: if ``k`` is not in 1..C, or as in `accuracy`.
    """
    scores, labels = checked(logits, labels)
    if not 1 <= k <= scores.shape[1]:
        raise ArgumentError(f"`k` must be from 1 to the number of classes, {scores.shape[1]}; got {k}; lower it")
    return _mean((scores.topk(k, dim=1).indices == labels[:, None]).any(dim=1))


def mean_per_class(logits: Tensor, labels: Tensor) -> float:
    """Accuracy of each class that occurs in ``labels``, averaged with equal weight.

    Args:
        logits: ``(n, C)`` finite scores.
        labels: ``(n,)`` integer class ids in [0, C); classes without a sample are left out.

    Returns:
        Fraction in [0, 1].

    Raises:
        ArgumentError: as in `accuracy`.
    """
    scores, labels = checked(logits, labels)
    counts = torch.bincount(labels, minlength=scores.shape[1]).double()
    correct = torch.bincount(labels[scores.argmax(dim=1) == labels], minlength=scores.shape[1]).double()
    present = counts > 0
    return float((correct[present] / counts[present]).mean())


def expected_calibration_error(
    logits_or_probabilities: Tensor,
    labels: Tensor,
    bins: int = 10,
    *,
    kind: Literal["logits", "probabilities"] = "logits",
) -> float:
    """Expected calibration error over all samples at once: sum over bins of n_b / n |accuracy_b - confidence_b|.

    Args:
        logits_or_probabilities: ``(n, C)``; which of the two is said by ``kind`` and never guessed.
        labels: ``(n,)`` integer class ids in [0, C).
        bins: number of equal-width bins of the top-1 confidence, at least 1.
        kind: ``"logits"`` are passed through softmax; ``"probabilities"`` must have rows that sum to 1.

    Returns:
        Fraction in [0, 1].

    Raises:
        ArgumentError: if ``bins`` or ``kind`` is not allowed, probabilities are not probabilities, or as in `accuracy`.

    Note:
        Bins are [low, high); the last is closed, so a confidence of exactly 1.0 is counted there.
        The published codes average per batch instead, which is never lower: see `ece_per_batch`.

    Example:
        >>> sure = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        >>> expected_calibration_error(sure, torch.tensor([0, 1]), kind="probabilities")
        0.5
    """
    one_of("kind", kind, ("logits", "probabilities"))
    scores, labels = checked(logits_or_probabilities, labels)
    probabilities = scores.softmax(dim=1) if kind == "logits" else as_probabilities(scores)
    confidence, guess = probabilities.max(dim=1)
    return binned_gap(confidence, guess == labels, bins)


def ece_per_batch(logits: Tensor, labels: Tensor, batch_size: int, bins: int = 10) -> float:
    """Calibration error of each batch in the given order, averaged with the batch sizes as weights.

    Only for comparison with published figures. It depends on the order of the samples, and by the
    triangle inequality it is never below `expected_calibration_error`, more so for small batches.

    Args:
        logits: ``(n, C)`` finite scores.
        labels: ``(n,)`` integer class ids in [0, C).
        batch_size: samples in a batch, at least 1; the last batch may be smaller.
        bins: number of equal-width bins, at least 1.

    Returns:
        Fraction in [0, 1].

    Raises:
        ArgumentError: if ``batch_size`` or ``bins`` is below 1, or as in `accuracy`.
    """
    if batch_size < 1:
        raise ArgumentError(f"`batch_size` must be at least 1; got {batch_size}; give the evaluation batch size")
    scores, labels = checked(logits, labels)
    confidence, guess = scores.softmax(dim=1).max(dim=1)
    return binned_gap_per_batch(confidence, guess == labels, batch_size, bins)


def negative_log_likelihood(logits: Tensor, labels: Tensor) -> float:
    """Mean of minus the log softmax at the label, in nats.

    Args:
        logits: ``(n, C)`` finite scores (not probabilities).
        labels: ``(n,)`` integer class ids in [0, C).

    Returns:
        Number >= 0.

    Raises:
        ArgumentError: as in `accuracy`.
    """
    scores, labels = checked(logits, labels)
    return _mean(-scores.log_softmax(dim=1).gather(1, labels[:, None]).squeeze(1))


def brier_score(logits: Tensor, labels: Tensor) -> float:
    """Mean squared distance, summed over the classes, of the softmax from the one-hot label.

    Args:
        logits: ``(n, C)`` finite scores (not probabilities).
        labels: ``(n,)`` integer class ids in [0, C).

    Returns:
        Number in [0, 2].

    Raises:
        ArgumentError: as in `accuracy`.
    """
    scores, labels = checked(logits, labels)
    probabilities = scores.softmax(dim=1)
    # |p - e_y|^2 by the label's column alone: no one-hot copy, and no cancellation as in |p|^2 - 2 p_y + 1.
    at_label = probabilities.gather(1, labels[:, None]).squeeze(1).double()
    others = probabilities.scatter(1, labels[:, None], 0.0).square().sum(dim=1).double()
    return _mean(others + (1.0 - at_label).square())


def summarise(logits: Tensor, labels: Tensor) -> dict[str, int | float | list[float] | None]:
    """Every metric of one split in plain Python values, with the names that record.json uses.

    Args:
        logits: ``(n, C)`` finite scores.
        labels: ``(n,)`` integer class ids in [0, C).

    Returns:
        ``n`` (int), ``top1``, ``top1_ci95`` ``[low, high]``, ``top5`` (``None`` below five classes),
        ``mean_per_class``, ``macro_f1``, ``ece_10``, ``ece_15``, ``ece_per_batch_10`` (batches of 512), ``nll``,
        ``brier``.

    Raises:
        ShapeError: if the shapes do not fit.
        ArgumentError: as in `accuracy`.
    """
    scores, labels = checked(logits, labels)
    confidence, guess = scores.softmax(dim=1).max(dim=1)
    correct = guess == labels
    num_hits, n = int(correct.sum()), len(labels)
    return {
        "n": n,
        "top1": num_hits / n,
        "top1_ci95": list(wilson_interval(num_hits, n)),
        "top5": top_k(scores, labels, 5) if scores.shape[1] >= 5 else None,
        "mean_per_class": mean_per_class(scores, labels),
        "macro_f1": macro_f1(scores, labels),
        "ece_10": binned_gap(confidence, correct, 10),
        "ece_15": binned_gap(confidence, correct, 15),
        "ece_per_batch_10": binned_gap_per_batch(confidence, correct, PUBLISHED_BATCH_SIZE, 10),
        "nll": negative_log_likelihood(scores, labels),
        "brier": brier_score(scores, labels),
    }


def _mean(values: Tensor) -> float:
    return float(values.cpu().double().mean())
