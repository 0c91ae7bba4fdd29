"""The energy gap of Lipsum-FT (Nam, Heo, Lee, ICLR 2024, arXiv 2404.00860).

Legend: N images, M texts, D embedding size, s exponentiated logit scale; v, v_0 an image embedding of the student and
of the pretrained model, w a text embedding of the pretrained model; an energy is -s <v, w>.
"""

import torch
from torch import Tensor

from tracerft.losses.contrastive import full_precision
from tracerft.losses.shapes import check_images, check_width


def energy_gap(student_image: Tensor, teacher_image: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """1/(2MN) sum_i sum_m (s <v_i, w_m> - s <v_0i, w_m>)^2.

    Args:
        student_image: v, ``(N, D)`` unit-norm rows.
        teacher_image: v_0, the same shape; no gradient flows into it.
        texts: w, ``(M, D)`` unit-norm rows; fixed.
        scale: s, one number, that of the pretrained model; fixed, or a smaller s would lower the term by itself.

    Returns:
        Scalar in [0, 2 s^2] for unit-norm rows, float32 (float64 for float64 embeddings). Its gradient with respect
        to v is s^2 / (MN) (V - V_0) W^T W.

    Raises:
        ShapeError: if images or texts do not fit each other.
    """
    check_images(student_image, teacher_image)
    check_width("texts", texts, student_image.shape[1])
    with torch.autocast(student_image.device.type, enabled=False):
        student, teacher, rows, factor = full_precision(
            student_image, teacher_image.detach(), texts.detach(), scale.detach()
        )
        # The difference of the images first: two energies near 100 would cancel to few digits.
        gaps = factor.reshape(()) * ((student - teacher) @ rows.T)
        mean: Tensor = gaps.square().mean()
        return mean / 2
