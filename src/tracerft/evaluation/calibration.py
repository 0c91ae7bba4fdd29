"""The bins behind the calibration error, on confidences and hits.

Imports `errors` only. The public functions on logits are in `metrics`.
"""

import torch
from torch import Tensor

from tracerft.errors import ArgumentError


def binned_gap(confidence: Tensor, correct: Tensor, bins: int) -> float:
    """Sum over equal-width bins of n_b / n |accuracy_b - confidence_b|.

    Args:
        confidence: ``(n,)`` in [0, 1].
        correct: ``(n,)`` bool.
        bins: at least 1; bins are [low, high), the last closed.

    Returns:
        Fraction in [0, 1].

    Raises:
        ArgumentError: if ``bins`` is below 1.
    """
    if bins < 1:
        raise ArgumentError(f"`bins` must be at least 1; got {bins}; 10 is usual")
    edges = torch.linspace(0.0, 1.0, bins + 1, dtype=confidence.dtype, device=confidence.device)
    # Inner edges only, so that nothing can fall below the first bin or above the last.
    index = torch.bucketize(confidence.contiguous(), edges[1:-1], right=True).cpu()
    gap = correct.cpu().double() - confidence.cpu().double()
    return float(torch.zeros(bins, dtype=torch.float64).index_add_(0, index, gap).abs().sum() / len(gap))


def binned_gap_per_batch(confidence: Tensor, correct: Tensor, batch_size: int, bins: int) -> float:
    """`binned_gap` of consecutive batches of ``batch_size`` samples, averaged with their sizes as weights."""
    n = len(confidence)
    batches = [slice(start, min(start + batch_size, n)) for start in range(0, n, batch_size)]
    return sum(binned_gap(confidence[b], correct[b], bins) * (b.stop - b.start) for b in batches) / n
