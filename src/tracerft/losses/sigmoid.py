"""The losses in sigmoid (SigLIP) form: every image-text pair is a yes-or-no question of its own.

Owns the pairwise loss, its distillation terms, and `pair_loss`, which picks softmax or sigmoid by the bias.

Legend: N pairs, D embedding size; superscripts S student, T teacher; z_ij = scale * <h_i, h_j> + bias, a logit;
y_ij = 1 where image i and text j belong together, -1 elsewhere; B(z): the Bernoulli variable of mean sigmoid(z);
S->T: student anchors against teacher keys, a logit of the student and so with the student's scale and bias.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tracerft.errors import ArgumentError, ShapeError
from tracerft.losses.contrastive import check_paired, contrastive_loss, full_precision, same_caption, similarity_block
from tracerft.losses.distillation import SimilarityBlocks
from tracerft.losses.tiled import is_large, tiled_loss
from tracerft.types import Embeddings


class SigmoidBlocks(SimilarityBlocks):
    """The logit matrices of a sigmoid student and teacher, each built at first use and kept.

    Args:
        student: N pairs, with gradient and a bias.
        teacher: the same shapes, with its own bias; detached here, so no term can send a gradient into it.

    Raises:
        ArgumentError: if one of the two has no bias.
        ShapeError: if the two differ in shape, there is no pair, or a bias is not one number.
    """

    def __init__(self, student: Embeddings, teacher: Embeddings) -> None:
        super().__init__(student, teacher)
        _check(student, "student")
        _check(teacher, "teacher")

    def contrastive(self, same: Tensor | None = None, targets: str = "diagonal") -> Tensor:
        """L_MMCL of the student, see `sigmoid_loss`; ``same`` is what `same_caption` returned."""
        return _pairwise(self.student, same, targets)

    def contrastive_relational_distillation(self) -> Tensor:
        """CRD; see `sigmoid_relational_distillation`."""
        return _bernoulli_divergence(self.teacher, self.student)

    def interactive_contrastive_loss(self, same: Tensor | None = None, targets: str = "diagonal") -> Tensor:
        """ICL; see `sigmoid_interactive_loss`."""
        return (_pairwise(self.image_cross, same, targets) + _pairwise(self.text_cross, same, targets)) / 2

    def cross_kd(self) -> Tensor:
        """CrossKD; see `sigmoid_cross_kd`."""
        image = _bernoulli_divergence(self.teacher, self.image_cross)
        return (image + _bernoulli_divergence(self.teacher.T, self.text_cross)) / 2

    def _block(self, anchors: Tensor, keys: Tensor, of: Embeddings) -> Tensor:
        return _logits(anchors, keys, of)


def sigmoid_loss(embeddings: Embeddings, targets: str = "diagonal", labels: Tensor | None = None) -> Tensor:
    """SigLIP's pairwise loss, -1/N sum_ij log sigmoid(y_ij z_ij) (Zhai et al. 2023).

    Args:
        embeddings: N >= 1 pairs, unit-norm rows, with a bias.
        targets: ``diagonal``: only text i belongs to image i. ``multi_positive``: every text equal to the caption
            of image i does. ``masked``: such texts, but for text i, are left out of the sum.
        labels: ``(N,)`` integer ids, equal for equal captions; needed by the last two.

    Returns:
        Scalar >= 0, float32 (float64 for float64 embeddings), also inside autocast.

    Raises:
        ArgumentError: if there is no bias, targets is unknown, or labels are missing or not integers.
        ShapeError: if images and texts differ in number, there is no pair, the bias is not one number, or labels
            are not ``(N,)``.

    Note:
        The sum is divided by N under all targets, so masking only takes terms away.

    Example:
        >>> pairs = Embeddings(torch.eye(2), torch.eye(2), scale=torch.tensor(1.0), bias=torch.tensor(0.0))
        >>> sigmoid_loss(pairs)  # log(1 + 1 / e) + log(2)
        tensor(1.0064)
    """
    _check(embeddings, "embeddings")
    same = same_caption(labels, targets, len(embeddings.image), embeddings.image.device)
    return _pairwise(_logits(embeddings.image, embeddings.text, embeddings), same, targets)


def pair_loss(embeddings: Embeddings, targets: str = "diagonal", labels: Tensor | None = None) -> Tensor:
    """The contrastive loss the model was made for: `sigmoid_loss` with a bias, `contrastive_loss` without.

    Above 4,096 pairs the latter is computed in tiles (see `tiled_loss`), in memory O(N).

    Args:
        embeddings: N pairs, unit-norm rows; N >= 2, or 1 with a bias.
        targets: ``diagonal``, ``multi_positive`` or ``masked``.
        labels: ``(N,)`` integer ids, equal for equal captions; needed by the last two.

    Returns:
        Scalar >= 0, float32 (float64 for float64 embeddings), also inside autocast.

    Raises:
        ArgumentError: if targets is unknown, or labels are missing or not integers.
        ShapeError: if images and texts differ in number, are too few, the bias is not one number, or labels are
            not ``(N,)``.
    """
    if is_large(embeddings):
        return tiled_loss(embeddings, embeddings, {"contrastive": 1.0}, targets=targets, labels=labels).total
    loss = contrastive_loss if embeddings.bias is None else sigmoid_loss
    return loss(embeddings, targets, labels)


def sigmoid_relational_distillation(student: Embeddings, teacher: Embeddings) -> Tensor:
    """CRD in sigmoid form, 1/N sum_ij KL(B(z_ij^T) || B(z_ij^S)) (ours, after (23)).

    Args:
        student: N pairs, unit-norm rows ``(N, D)``, with a bias.
        teacher: the same shapes, with its own scale and bias; no gradient flows into it.

    Returns:
        Scalar >= 0 up to rounding, float32 (float64 for float64 embeddings).

    Raises:
        ArgumentError: if one of the two has no bias.
        ShapeError: if the two differ in shape, there is no pair, or a bias is not one number.

    Note:
        (23) adds the two directions. A sigmoid has none: z_ij is the same question read by row or by column, so
        each counts once, as in `sigmoid_loss`. With the teacher's sigmoid(z_ij^T) as soft targets that loss
        exceeds its least value by exactly this term. It stands for one direction where (23) has two; crd=2 in
        `TracerLoss` restores the ratio to the other terms.
    """
    return SigmoidBlocks(student, teacher).contrastive_relational_distillation()


def sigmoid_interactive_loss(
    student: Embeddings, teacher: Embeddings, targets: str = "diagonal", labels: Tensor | None = None
) -> Tensor:
    """ICL in sigmoid form: `sigmoid_loss` of student anchors against teacher keys, halved (ours, after (24)).

    Args:
        student: N pairs, unit-norm rows ``(N, D)``, with a bias; its scale and bias are used.
        teacher: the same shapes, with a bias; no gradient flows into it.
        targets: as in `sigmoid_loss`.
        labels: ``(N,)`` integer caption ids, as in `sigmoid_loss`.

    Returns:
        Scalar >= 0, float32 (float64 for float64 embeddings).

    Raises:
        ArgumentError: if one has no bias, targets is unknown, or labels are missing or not integers.
        ShapeError: if the two differ in shape, there is no pair, a bias is not one number, or labels are not
            ``(N,)``.
    """
    blocks = SigmoidBlocks(student, teacher)
    same = same_caption(labels, targets, len(student.image), student.image.device)
    return blocks.interactive_contrastive_loss(same, targets)


def sigmoid_cross_kd(student: Embeddings, teacher: Embeddings) -> Tensor:
    """CrossKD in sigmoid form, half the sum of the two cross-anchor divergences (ours, after (25-27)).

    1/(2N) sum_ij (KL(B(z_ij^T) || B(z_ij^{S->T})) + KL(B(z_ji^T) || B(w_ij^{S->T}))), with z^{S->T} of student
    images and teacher texts, w^{S->T} of student texts and teacher images.

    Args:
        student: N pairs, unit-norm rows ``(N, D)``, with a bias; its scale and bias make z^{S->T}, w^{S->T}.
        teacher: the same shapes; its own scale and bias make z^T; no gradient flows into it.

    Returns:
        Scalar >= 0 up to rounding, float32 (float64 for float64 embeddings).

    Raises:
        ArgumentError: if one of the two has no bias.
        ShapeError: if the two differ in shape, there is no pair, or a bias is not one number.
    """
    return SigmoidBlocks(student, teacher).cross_kd()


def _check(embeddings: Embeddings, argument: str) -> None:
    _bias(embeddings, argument)
    check_paired(len(embeddings.image), len(embeddings.text))
    if len(embeddings.image) < 1:
        raise ShapeError(f"`{argument}` must hold at least 1 pair; got 0; drop empty batches")


def _bias(embeddings: Embeddings, argument: str) -> Tensor:
    bias = embeddings.bias
    if bias is None:
        raise ArgumentError(
            f"`{argument}` must have a bias in the sigmoid form; got bias=None; pass the model's logit_bias as "
            "Embeddings(..., bias=...), or leave it out everywhere for the softmax form"
        )
    if bias.numel() != 1:
        raise ShapeError(
            f"`{argument}` must have one number as its bias; got shape {tuple(bias.shape)}; pass the model's logit_bias"
        )
    return bias.reshape(())


def _logits(anchors: Tensor, keys: Tensor, of: Embeddings) -> Tensor:
    block, bias = full_precision(similarity_block(anchors, keys, of.scale), _bias(of, "embeddings"))
    return block + bias


def _pairwise(logits: Tensor, same: Tensor | None, targets: str) -> Tensor:
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    positive = same if same is not None and targets == "multi_positive" else own
    losses = -logsigmoid(torch.where(positive, logits, -logits))
    if same is not None and targets == "masked":
        losses = losses.masked_fill(same & ~own, 0.0)
    return losses.sum() / len(logits)


def _bernoulli_divergence(teacher: Tensor, student: Tensor) -> Tensor:
    # One difference of logsigmoids for each answer: nothing is subtracted from 1, and an answer that the teacher
    # rules out (probability 0 in float32) contributes 0, never 0 * inf.
    yes = teacher.sigmoid() * (logsigmoid(teacher) - logsigmoid(student))
    no = (-teacher).sigmoid() * (logsigmoid(-teacher) - logsigmoid(-student))
    return (yes + no).sum() / len(teacher)
