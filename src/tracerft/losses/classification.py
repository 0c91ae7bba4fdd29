"""Losses on the logits of a classifier: cross-entropy, and distillation of a teacher's logits.

Legend: N examples, C classes, z logits, T temperature.
"""

import torch
from torch import Tensor
from torch.nn import functional

from tracerft.errors import ArgumentError, ShapeError
from tracerft.losses.contrastive import full_precision


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean over the examples of -log softmax(z)_y.

    Args:
        logits: ``(N, C)``, N >= 1.
        labels: ``(N,)`` integer class ids in [0, C).
        smoothing: share in [0, 1) of the target that is spread evenly over all classes (Szegedy et al. 2016).

    Returns:
        Scalar >= 0, float32 (float64 for float64 logits), also inside autocast.

    Raises:
        ArgumentError: if labels are not integers, or smoothing is out of range.
        ShapeError: if there is no example, or not one label an example.
    """
    if logits.ndim != 2 or len(logits) == 0 or labels.shape != logits.shape[:1]:
        raise ShapeError(
            f"`logits` must be (N, C) and `labels` (N,) with N >= 1; got {tuple(logits.shape)} and "
            f"{tuple(labels.shape)}; give one class id an example"
        )
    if labels.dtype.is_floating_point or labels.dtype.is_complex:
        raise ArgumentError(f"`labels` must be integer class ids; got {labels.dtype}; convert them with .long()")
    if not 0.0 <= smoothing < 1.0:
        raise ArgumentError(f"`smoothing` must be in [0, 1); got {smoothing}; 0 is none, 0.1 is usual")
    with torch.autocast(logits.device.type, enabled=False):
        (logits,) = full_precision(logits)
        return functional.cross_entropy(logits, labels.long(), label_smoothing=smoothing)


def logit_distillation(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 mean_i KL(softmax(z_i^T / T) || softmax(z_i / T)) (Hinton et al. 2015; Li and Hoiem 2018).

    T^2 keeps gradients comparable between temperatures: that of one student logit is T (p^S - p^T) / N.

    Args:
        student_logits: z, ``(N, C)`` with N >= 1.
        teacher_logits: z^T, the same shape; no gradient flows into it.
        temperature: T > 0.

    Returns:
        Scalar >= 0, float32 (float64 for float64 logits), also inside autocast.

    Raises:
        ArgumentError: if the temperature is not above 0.
        ShapeError: if the two differ in shape, or there is no example.
    """
    shapes = tuple(student_logits.shape), tuple(teacher_logits.shape)
    if shapes[0] != shapes[1] or len(shapes[0]) != 2 or shapes[0][0] == 0:
        raise ShapeError(
            f"`student_logits` and `teacher_logits` must both be (N, C) with N >= 1; got {shapes[0]} and {shapes[1]}; "
            "use the same batch and classes"
        )
    if not temperature > 0:
        raise ArgumentError(f"`temperature` must be above 0; got {temperature}; 1 is usual")
    with torch.autocast(student_logits.device.type, enabled=False):
        student, teacher = full_precision(student_logits, teacher_logits.detach())
        ours, theirs = (student / temperature).log_softmax(dim=1), (teacher / temperature).log_softmax(dim=1)
        # A difference of logarithms: a probability that underflows to 0 contributes 0, never 0 * inf.
        divergence: Tensor = (theirs.exp() * (theirs - ours)).sum(dim=1).mean()
        return temperature**2 * divergence
