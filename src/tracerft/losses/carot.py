"""The two terms of CaRot (Oh et al., NeurIPS 2024, arXiv 2311.01723) beside InfoNCE and the cross-Frobenius norm.

Legend: N pairs, D embedding size; p_i the distribution of image i over the texts, q_j of text j over the images;
superscript T the teacher; P a projection into the shared space.
"""

import torch
from torch import Tensor

from tracerft.errors import ArgumentError, ShapeError
from tracerft.losses.contrastive import full_precision
from tracerft.losses.distillation import SimilarityBlocks
from tracerft.types import Embeddings


def cross_distillation(student: Embeddings, teacher: Embeddings) -> Tensor:
    """L_SD = -mean_i [sum_j p_ij^T log p_ij + sum_j q_ij^T log q_ij]: two cross-entropies, summed, not halved.

    It exceeds `contrastive_relational_distillation` by the teacher's entropies, so its gradient is the same.

    Args:
        student: N pairs, unit-norm rows ``(N, D)``; its distributions use its own scale.
        teacher: the same shapes; its distributions use its own scale; no gradient flows into it.

    Returns:
        Scalar >= 0, not 0 where the two agree; float32 (float64 for float64 embeddings).

    Raises:
        ShapeError: if the two differ in shape.
    """
    blocks = SimilarityBlocks(student, teacher)
    log_p, log_q = blocks.teacher_logs
    return _cross_entropy(log_p, blocks.student) + _cross_entropy(log_q, blocks.student.T)


def _cross_entropy(teacher_log: Tensor, student_block: Tensor) -> Tensor:
    with torch.autocast(student_block.device.type, enabled=False):
        return -(teacher_log.exp() * student_block.log_softmax(dim=1)).sum(dim=1).mean()


def orthogonality(projection: Tensor, power: int = 1) -> Tensor:
    """||P^T P - I||_F^power, where the Gram matrix is the one of the smaller side.

    With G = P^T P - I the gradient is 2 P G / ||G||_F for power 1, and 4 P G for power 2; 0 at G = 0.

    Args:
        projection: P, ``(width, D)`` or its transpose: both have the same value.
        power: 1 as in the published code, 2 as in the paper.

    Returns:
        Scalar >= 0, float32 (float64 for float64 weights), also inside autocast.

    Raises:
        ArgumentError: if the power is neither 1 nor 2.
        ShapeError: if P is not a matrix.

    Note:
        The larger Gram matrix has a rank below its size, so that it cannot come nearer to I than the root of what is
        missing; the published code takes it for ResNets.
    """
    if power not in (1, 2):
        raise ArgumentError(f"`power` must be 1 (the published code) or 2 (the paper); got {power}")
    if projection.ndim != 2:
        raise ShapeError(
            f"`projection` must be a matrix (width, D); got {tuple(projection.shape)}; give the last layer's weight"
        )
    with torch.autocast(projection.device.type, enabled=False):
        (matrix,) = full_precision(projection)
        tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
        gap = tall.T @ tall - torch.eye(tall.shape[1], dtype=tall.dtype, device=tall.device)
        # vector_norm has the subgradient 0 at 0, where sqrt(sum of squares) would give NaN.
        norm: Tensor = torch.linalg.vector_norm(gap)
        return norm if power == 1 else gap.square().sum()
