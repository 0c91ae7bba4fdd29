"""Penalties on weights, once per optimiser step: the cross-Frobenius norm and L2-SP.

Legend: P_I, P_T projections of the towers into the shared space, D its size; theta, theta_0 trained and
pretrained parameters.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from tracerft.errors import ArgumentError, ShapeError, did_you_mean
from tracerft.losses.contrastive import full_precision


def cross_frobenius(image_projection: Tensor, text_projection: Tensor) -> Tensor:
    """Norm ||P_I P_T^T||_F, not squared (Section 4; in (1) it is written ||W_I^T W_T||_F).

    Args:
        image_projection: P_I, ``(width_i, D)``, as open_clip's ``visual.proj``.
        text_projection: P_T, ``(width_t, D)``, as open_clip's ``text_projection``; transpose an
            ``nn.Linear.weight``, which is ``(D, width)``.

    Returns:
        Scalar >= 0, float32 (float64 for float64 input); its gradient is 0 where the product is 0.

    Raises:
        ShapeError: if the two are not matrices of one width D.
    """
    shapes = tuple(image_projection.shape), tuple(text_projection.shape)
    if len(shapes[0]) != 2 or len(shapes[1]) != 2 or shapes[0][1] != shapes[1][1]:
        raise ShapeError(
            f"`image_projection` and `text_projection` must be (width, D) with one D; got {shapes[0]} and "
            f"{shapes[1]}; transpose the weight of an nn.Linear"
        )
    with torch.autocast(image_projection.device.type, enabled=False):
        image_projection, text_projection = full_precision(image_projection, text_projection)
        # vector_norm has the subgradient 0 at 0, where sqrt(sum of squares) would give NaN.
        norm: Tensor = torch.linalg.vector_norm(image_projection @ text_projection.T)
        return norm


def l2_sp(parameters: Mapping[str, Tensor], anchors: Mapping[str, Tensor]) -> Tensor:
    """Half the squared distance to the starting point, 1/2 sum ||theta - theta_0||^2 (Theorem 3.2, L2-SP).

    Args:
        parameters: the trained parameters by name, with gradient.
        anchors: the pretrained values by name; names beyond `parameters` (frozen weights) are not read.

    Returns:
        Scalar >= 0, float32 (float64 for float64 parameters).

    Raises:
        ArgumentError: if there are no parameters, or one has no anchor.
        ShapeError: if a parameter and its anchor differ in shape.
    """
    if not parameters:
        raise ArgumentError("`parameters` must hold at least one tensor; got none; unfreeze a part of the model")
    distances = [_half_square(name, value, anchors) for name, value in parameters.items()]
    total = distances[0]
    for distance in distances[1:]:
        total = total + distance.to(total.device)
    return total


def _half_square(name: str, value: Tensor, anchors: Mapping[str, Tensor]) -> Tensor:
    anchor = anchors.get(name)
    if anchor is None:
        raise ArgumentError(
            f"`anchors` must hold a start value for each parameter; got none for {name!r}"
            f"{did_you_mean(name, list(anchors))}; copy the parameters before training"
        )
    if anchor.shape != value.shape:
        raise ShapeError(
            f"`anchors` must match the parameters in shape; {name!r} is {tuple(value.shape)}, its anchor "
            f"{tuple(anchor.shape)}; copy the anchors from the same model"
        )
    with torch.autocast(value.device.type, enabled=False):
        value, anchor = full_precision(value, anchor.detach().to(value.device))
        return (value - anchor).square().sum() / 2
