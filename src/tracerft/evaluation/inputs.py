"""What every metric asks of its logits and labels, checked in one place.

Imports `errors` only.
"""

import torch
from torch import Tensor

from tracerft.errors import ArgumentError, ShapeError


def checked(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The pair as float32-or-wider scores and int64 labels on one device.

    Args:
        logits: ``(n, C)``.
        labels: ``(n,)`` integers.

    Raises:
        ShapeError: if the shapes do not fit.
        ArgumentError: if there is nothing to count, a label is out of range, or a score is not finite.
    """
    if logits.ndim != 2 or labels.ndim != 1 or len(logits) != len(labels):
        raise ShapeError(
            f"`logits` must be (n, C) and `labels` (n,); got {tuple(logits.shape)} and {tuple(labels.shape)}; "
            "stack the batches of one split first"
        )
    if logits.numel() == 0:
        raise ArgumentError(f"`logits` must hold at least one sample and class; got {tuple(logits.shape)}; check data")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ArgumentError(f"`labels` must be integer class ids; got {labels.dtype}; pass labels.long()")
    scores = logits.detach()
    scores = scores if scores.dtype == torch.float64 else scores.float()  # bf16 quantises confidences visibly
    labels = labels.detach().to(device=scores.device, dtype=torch.int64)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= scores.shape[1]:
        raise ArgumentError(f"`labels` must be in [0, {scores.shape[1]}); got {low} to {high}; check the class list")
    if not bool(torch.isfinite(scores).all()):
        bad = int((~torch.isfinite(scores)).any(dim=1).sum())
        raise ArgumentError(f"`logits` must be finite; {bad} of {len(scores)} rows are not; check the model's weights")
    return scores, labels


def as_probabilities(scores: Tensor) -> Tensor:
    """``scores`` ``(n, C)`` unchanged where each row is a distribution, to 1e-3 (a softmax in half precision).

    Raises:
        ArgumentError: if a value is outside [0, 1] or a row does not sum to 1.
    """
    total = scores.double().sum(dim=1)
    if float(scores.min()) < 0.0 or float(scores.max()) > 1.0 + 1e-6 or float((total - 1.0).abs().max()) > 1e-3:
        raise ArgumentError(
            "`logits_or_probabilities` with kind='probabilities' must be in [0, 1] with rows that sum to 1; got values "
            f"{float(scores.min()):.4g} to {float(scores.max()):.4g} and sums {float(total.min()):.4g} to "
            f'{float(total.max()):.4g}; pass kind="logits" for scores before softmax'
        )
    return scores
