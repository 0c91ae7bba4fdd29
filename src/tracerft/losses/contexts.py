"""The context term of CAR-FT (Mao et al. 2024, arXiv 2211.16175).

Legend: N images, K contexts (prompt templates), D embedding size, s exponentiated logit scale.
"""

import torch
from torch import Tensor

from tracerft.losses.classification import logit_distillation
from tracerft.losses.contrastive import similarity_block
from tracerft.losses.shapes import check_images, check_width


def context_kl(
    student_image: Tensor,
    teacher_image: Tensor,
    contexts: Tensor,
    student_scale: Tensor,
    teacher_scale: Tensor,
) -> Tensor:
    """Mean over the images of KL(q_0 || q), where q = softmax_k(s <h_I, A_k>) is an image's distribution of contexts.

    Args:
        student_image: h_I, ``(N, D)`` unit-norm rows.
        teacher_image: the pretrained model's, the same shape; no gradient flows into it.
        contexts: A, ``(K, D)`` unit-norm rows, as `tracerft.models.contexts.context_rows` makes them; fixed.
        student_scale: s of q, one number; without it (s = 1) every q is near uniform and the term near 0.
        teacher_scale: s of q_0, one number.

    Returns:
        Scalar >= 0, float32 (float64 for float64 embeddings); 0 for K = 1. The gradient of one context logit of the
        student is (q - q_0) / N.

    Raises:
        ShapeError: if images or contexts do not fit each other.
    """
    check_images(student_image, teacher_image)
    check_width("contexts", contexts, student_image.shape[1])
    contexts = contexts.detach()
    with torch.no_grad():
        pretrained = similarity_block(teacher_image, contexts, teacher_scale)
    return logit_distillation(similarity_block(student_image, contexts, student_scale), pretrained)
