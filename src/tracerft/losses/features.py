"""Squared distances to a reference model's image features: embeddings (static SD), or inner layers too (LDIFS)."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from tracerft.errors import ArgumentError, ShapeError
from tracerft.losses.contrastive import full_precision
from tracerft.losses.shapes import check_images


def image_feature_distillation(student_image: Tensor, teacher_image: Tensor) -> Tensor:
    """1/2 mean_i ||h_i - h_0i||^2 over the image embeddings, summed over D (static SD of Section 3).

    `feature_distillation` (20) is the same over image and text without the half.

    Args:
        student_image: h, ``(N, D)``; unit-norm rows in the nonlinear case, W X in the linear theory.
        teacher_image: h_0, the same shape; no gradient flows into it.

    Returns:
        Scalar >= 0, at most 2 for unit-norm rows; float32 (float64 for float64 embeddings).

    Raises:
        ShapeError: if the two differ in shape.
    """
    check_images(student_image, teacher_image)
    return _mean_square(student_image, teacher_image, unit=False) / 2


def feature_distance(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
    """Mean over layers l and examples i of ||phi_l(x_i) - phi_l^0(x_i)||^2, each feature at unit norm.

    LDIFS (Mukhoti, Gal, Torr, Dokania, TMLR 2024, arXiv 2308.13320).

    Args:
        student: pooled features ``(N, width)`` by layer; widths may differ between layers.
        teacher: the same layers and shapes; no gradient flows into them.

    Returns:
        Scalar in [0, 4], float32 (float64 for float64 features).

    Raises:
        ArgumentError: if there is no layer, or the two do not name the same ones.
        ShapeError: if a layer differs in shape.

    Note:
        The published code compares the first six of its 18 entries only, and normalises over tokens.
    """
    if not student or set(student) != set(teacher):
        raise ArgumentError(
            f"`student` and `teacher` must hold features of the same layers; got {sorted(student)} and "
            f"{sorted(teacher)}; capture the same names of both models"
        )
    for name, features in student.items():
        shapes = tuple(features.shape), tuple(teacher[name].shape)
        if shapes[0] != shapes[1] or len(shapes[0]) != 2 or shapes[0][0] == 0:
            raise ShapeError(
                f"features of {name!r} must both be (N, width) with N >= 1; got {shapes[0]} and {shapes[1]}; use one "
                "batch and one architecture"
            )
    distances = [_mean_square(features, teacher[name], unit=True) for name, features in student.items()]
    return torch.stack(distances).mean()


def _mean_square(student: Tensor, teacher: Tensor, *, unit: bool) -> Tensor:
    with torch.autocast(student.device.type, enabled=False):
        student, teacher = full_precision(student, teacher.detach())
        if unit:
            student, teacher = functional.normalize(student, dim=1), functional.normalize(teacher, dim=1)
        return (student - teacher).square().sum(dim=1).mean()
