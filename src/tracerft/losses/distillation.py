"""The four self-distillation terms between a student and its averaged teacher (Section 4).

Pure functions of two `Embeddings`; `SimilarityBlocks` lets several terms share their matrices.

Legend: N pairs, D embedding size; superscripts S student, T teacher; h_I, h_T image and text embeddings;
p_i: the distribution of image i over the texts, q_i: of text i over the images (21, 22);
S->T: student anchors against teacher keys, a distribution of the student and so at the student's scale.
"""

from functools import cached_property

import torch
from torch import Tensor

from tracerft.errors import ShapeError
from tracerft.losses.contrastive import full_precision, same_caption, similarity_block, symmetric_cross_entropy
from tracerft.types import Embeddings


class SimilarityBlocks:
    """The similarity matrices of a student and a teacher, each built at first use and kept.

    Args:
        student: N pairs, with gradient.
        teacher: the same shapes; detached here, so no term can send a gradient into it.

    Raises:
        ShapeError: if the two differ in shape.
    """

    def __init__(self, student: Embeddings, teacher: Embeddings) -> None:
        check_same_shape(student, teacher)
        self._student = student
        bias = None if teacher.bias is None else teacher.bias.detach()
        self._teacher = Embeddings(teacher.image.detach(), teacher.text.detach(), teacher.scale.detach(), bias)

    @cached_property
    def student(self) -> Tensor:
        """``(N, N)``: student images against student texts, student's scale."""
        return self._block(self._student.image, self._student.text, self._student)

    @cached_property
    def image_cross(self) -> Tensor:
        """``(N, N)``: student images against teacher texts, student's scale."""
        return self._block(self._student.image, self._teacher.text, self._student)

    @cached_property
    def text_cross(self) -> Tensor:
        """``(N, N)``: student texts against teacher images, student's scale."""
        return self._block(self._student.text, self._teacher.image, self._student)

    @cached_property
    def teacher(self) -> Tensor:
        """``(N, N)``: teacher images against teacher texts, teacher's scale."""
        return self._block(self._teacher.image, self._teacher.text, self._teacher)

    @cached_property
    def teacher_logs(self) -> tuple[Tensor, Tensor]:
        """Two ``(N, N)``: log p^T and log q^T, teacher's scale (21, 22)."""
        return self.teacher.log_softmax(dim=1), self.teacher.T.log_softmax(dim=1)

    def contrastive(self, same: Tensor | None = None, targets: str = "diagonal") -> Tensor:
        """L_MMCL of the student; ``same`` is what `same_caption` returned."""
        return symmetric_cross_entropy(self.student, self.student.T, same, targets)

    def feature_distillation(self) -> Tensor:
        """FD (20); see the function of this name."""
        student, teacher = self._student, self._teacher
        with torch.autocast(student.image.device.type, enabled=False):
            return _mean_square(student.image, teacher.image) + _mean_square(student.text, teacher.text)

    def contrastive_relational_distillation(self) -> Tensor:
        """CRD (23); see the function of this name."""
        log_p, log_q = self.teacher_logs
        return _divergence(log_p, self.student) + _divergence(log_q, self.student.T)

    def interactive_contrastive_loss(self, same: Tensor | None = None, targets: str = "diagonal") -> Tensor:
        """ICL (24); ``same`` is what `same_caption` returned."""
        return symmetric_cross_entropy(self.image_cross, self.text_cross, same, targets)

    def cross_kd(self) -> Tensor:
        """CrossKD (25-27); see the function of this name."""
        log_p, log_q = self.teacher_logs
        return (_divergence(log_p, self.image_cross) + _divergence(log_q, self.text_cross)) / 2

    def _block(self, anchors: Tensor, keys: Tensor, of: Embeddings) -> Tensor:
        return similarity_block(anchors, keys, of.scale)


def feature_distillation(student: Embeddings, teacher: Embeddings) -> Tensor:
    """FD: mean_i (||h_I^T - h_I^S||^2 + ||h_T^T - h_T^S||^2), summed over D (20).

    Args:
        student: N pairs, unit-norm rows ``(N, D)``.
        teacher: the same shapes; no gradient flows into it.

    Returns:
        Scalar in [0, 8] for unit-norm rows, float32 (float64 for float64 embeddings).

    Raises:
        ShapeError: if the two differ in shape.

    Note:
        Averaging over D as well, as code in the field does, makes the term D times smaller.

    Example:
        >>> pairs = Embeddings(image=torch.eye(2), text=torch.eye(2), scale=torch.tensor(1.0))
        >>> feature_distillation(pairs, pairs)
        tensor(0.)
    """
    return SimilarityBlocks(student, teacher).feature_distillation()


def contrastive_relational_distillation(student: Embeddings, teacher: Embeddings) -> Tensor:
    """CRD: mean_i (KL(p_i^T || p_i^S) + KL(q_i^T || q_i^S)), not halved (23).

    Args:
        student: N pairs, unit-norm rows ``(N, D)``; its distributions use its own scale.
        teacher: the same shapes; its distributions use its own scale; no gradient flows into it.

    Returns:
        Scalar >= 0, float32 (float64 for float64 embeddings).

    Raises:
        ShapeError: if the two differ in shape.
    """
    return SimilarityBlocks(student, teacher).contrastive_relational_distillation()


def interactive_contrastive_loss(
    student: Embeddings, teacher: Embeddings, targets: str = "diagonal", labels: Tensor | None = None
) -> Tensor:
    """ICL: symmetric InfoNCE, halved, of student anchors against teacher keys (24).

    Args:
        student: N pairs, unit-norm rows ``(N, D)``, N >= 2; its scale is used.
        teacher: the same shapes; no gradient flows into it.
        targets: as in `contrastive_loss`.
        labels: ``(N,)`` integer caption ids, as in `contrastive_loss`.

    Returns:
        Scalar >= 0, float32 (float64 for float64 embeddings).

    Raises:
        ArgumentError: if targets is unknown, or labels are missing or not integers.
        ShapeError: if the two differ in shape, hold one pair only, or labels are not ``(N,)``.

    Note:
        Algorithm 1 prints the sum of the directions; equation (24) halves it.
    """
    blocks = SimilarityBlocks(student, teacher)
    same = same_caption(labels, targets, len(student.image), student.image.device)
    return blocks.interactive_contrastive_loss(same, targets)


def cross_kd(student: Embeddings, teacher: Embeddings) -> Tensor:
    """CrossKD: 1/2 mean_i (KL(p_i^T || p_i^{S->T}) + KL(q_i^T || q_i^{S->T})) (25-27).

    Args:
        student: N pairs, unit-norm rows ``(N, D)``; p^{S->T} and q^{S->T} use its scale.
        teacher: the same shapes; p^T and q^T use its scale; no gradient flows into it.

    Returns:
        Scalar >= 0, float32 (float64 for float64 embeddings).

    Raises:
        ShapeError: if the two differ in shape.

    Note:
        Algorithm 1 leaves out the half of (27); we follow the equation.
    """
    return SimilarityBlocks(student, teacher).cross_kd()


def check_same_shape(student: Embeddings, teacher: Embeddings) -> None:
    """Raise `ShapeError` unless student and teacher embeddings agree in shape."""
    for tower in ("image", "text"):
        ours, theirs = tuple(getattr(student, tower).shape), tuple(getattr(teacher, tower).shape)
        if ours != theirs:
            raise ShapeError(
                f"`teacher` must have the student's {tower} shape {ours}; got {theirs}; "
                "embed the same batch with both models"
            )


def _mean_square(student: Tensor, teacher: Tensor) -> Tensor:
    student, teacher = full_precision(student, teacher)
    return (teacher - student).square().sum(dim=1).mean()


def _divergence(teacher_log: Tensor, student_block: Tensor) -> Tensor:
    # A difference of log-softmaxes: a probability that underflows to 0 contributes 0, never 0 * inf.
    with torch.autocast(student_block.device.type, enabled=False):
        return (teacher_log.exp() * (teacher_log - student_block.log_softmax(dim=1))).sum(dim=1).mean()
