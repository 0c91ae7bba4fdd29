"""Symmetric InfoNCE of a batch of image-text pairs, with targets that know about equal captions.

Owns the similarity block and the cross-entropy that every contrastive term shares.

Legend: N pairs, K keys, D embedding size; h_I, h_T image and text embeddings; scale = 1 / temperature;
S[i, j] = scale * <h_i, h_j>, the similarity block; "same"[i, j]: pairs i and j carry the same caption.
"""

import torch
from torch import Tensor
from torch.nn import functional

from tracerft.errors import ArgumentError, ShapeError, one_of
from tracerft.types import Embeddings

TARGETS = ("diagonal", "multi_positive", "masked")


def full_precision(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All tensors in one dtype: float64 if any of them is, float32 otherwise."""
    dtype = torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
    return tuple(t.to(dtype) for t in tensors)


def similarity_block(anchors: Tensor, keys: Tensor, scale: Tensor) -> Tensor:
    """Scaled similarities S = scale * anchors keys^T, in float32 even inside autocast.

    Args:
        anchors: ``(N, D)`` unit-norm rows.
        keys: ``(K, D)`` unit-norm rows.
        scale: one number, already exponentiated.

    Returns:
        ``(N, K)`` in [-scale, scale]; float64 if an input is, float32 otherwise.

    Raises:
        ShapeError: if the widths differ.
    """
    if anchors.shape[-1] != keys.shape[-1]:
        raise ShapeError(
            f"`anchors` and `keys` must have one width D; got {tuple(anchors.shape)} and {tuple(keys.shape)}; "
            "use embeddings of the same model family"
        )
    # bf16 logits near 100 are spaced 0.5 apart, which would drown the loss: leave autocast here.
    with torch.autocast(anchors.device.type, enabled=False):
        anchors, keys, scale = full_precision(anchors, keys, scale)
        return scale.reshape(()) * (anchors @ keys.T)


def same_caption(labels: Tensor | None, targets: str, num_pairs: int, device: torch.device) -> Tensor | None:
    """Which pairs of the batch carry the same caption, or ``None`` where the targets do not ask.

    Args and errors are those of `caption_labels`.

    Returns:
        ``(N, N)`` bool with a true diagonal, or ``None`` for ``diagonal``.
    """
    ids = caption_labels(labels, targets, num_pairs, device)
    return None if ids is None else ids[:, None] == ids[None, :]


def caption_labels(labels: Tensor | None, targets: str, num_pairs: int, device: torch.device) -> Tensor | None:
    """The caption ids that the targets ask for, checked and on their device.

    Args:
        labels: ``(N,)`` integer ids; equal ids mean equal captions.
        targets: ``diagonal``, ``multi_positive`` or ``masked``.
        num_pairs: N.
        device: where the block lives.

    Returns:
        ``(N,)``, or ``None`` for ``diagonal``.

    Raises:
        ArgumentError: if targets is unknown, or labels are missing or not integers.
        ShapeError: if labels are not ``(N,)``.
    """
    one_of("targets", targets, TARGETS)
    if targets == "diagonal":
        return None
    if labels is None:
        raise ArgumentError(
            f"`labels` must be given with targets={targets!r}; got None; pass batch.caption_ids or targets='diagonal'"
        )
    if labels.dtype.is_floating_point or labels.dtype.is_complex:
        raise ArgumentError(f"`labels` must be integer ids; got {labels.dtype}; pass batch.caption_ids")
    if tuple(labels.shape) != (num_pairs,):
        raise ShapeError(
            f"`labels` must have shape ({num_pairs},), one id a pair; got {tuple(labels.shape)}; pass batch.caption_ids"
        )
    return labels.to(device)


def symmetric_cross_entropy(
    image_to_text: Tensor, text_to_image: Tensor, same: Tensor | None = None, targets: str = "diagonal"
) -> Tensor:
    """Mean of the two directions' cross-entropy against the targets (CLIP; (24) for ICL).

    Args:
        image_to_text: ``(N, N)`` similarity block, image anchors in rows.
        text_to_image: ``(N, N)`` similarity block, text anchors in rows.
        same: what `same_caption` returned.
        targets: ``diagonal``, ``multi_positive`` or ``masked``.

    Returns:
        Scalar >= 0.

    Raises:
        ShapeError: if the blocks are not square, or hold a single pair.
    """
    check_pairs(*image_to_text.shape)
    directions = [_cross_entropy(block, same, targets) for block in (image_to_text, text_to_image)]
    return (directions[0] + directions[1]) / 2


def contrastive_loss(embeddings: Embeddings, targets: str = "diagonal", labels: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE, the mean of image-to-text and text-to-image as in CLIP (L_MMCL, Section 4).

    Args:
        embeddings: N pairs, unit-norm rows, N >= 2.
        targets: ``diagonal``: only pair i answers anchor i. ``multi_positive``: all pairs with the anchor's
            caption share the target evenly. ``masked``: other pairs with the anchor's caption leave the softmax.
        labels: ``(N,)`` integer ids, equal for equal captions; needed by the last two.

    Returns:
        Scalar >= 0, float32 (float64 for float64 embeddings), also inside autocast.

    Raises:
        ArgumentError: if targets is unknown, or labels are missing or not integers.
        ShapeError: if images and texts differ in number, there is one pair only, or labels are not ``(N,)``.

    Note:
        Algorithm 1 prints the sum of the directions; E.2 says CLIP's loss, the mean. A SigLIP bias shifts all
        similarities alike and so leaves the softmax as it is; `pair_loss` picks the loss such a model wants.

    Example:
        >>> pairs = Embeddings(image=torch.eye(2), text=torch.eye(2), scale=torch.tensor(1.0))
        >>> contrastive_loss(pairs)  # log(1 + 1 / e)
        tensor(0.3133)
    """
    num_images, num_texts = len(embeddings.image), len(embeddings.text)
    check_pairs(num_images, num_texts)
    same = same_caption(labels, targets, num_images, embeddings.image.device)
    block = similarity_block(embeddings.image, embeddings.text, embeddings.scale)
    return symmetric_cross_entropy(block, block.T, same, targets)


def check_paired(num_images: int, num_texts: int) -> None:
    """Raise `ShapeError` unless there are as many texts as images."""
    if num_images != num_texts:
        raise ShapeError(
            f"`embeddings` must pair one text with each image; got {num_images} images and {num_texts} texts; "
            "repeat the text rows by caption id"
        )


def check_pairs(num_images: int, num_texts: int) -> None:
    """Raise `ShapeError` unless there are as many texts as images, two at least."""
    check_paired(num_images, num_texts)
    if num_images < 2:
        raise ShapeError(
            f"`embeddings` must hold at least 2 pairs; got {num_images}: without negatives there is no gradient; "
            "use a batch size >= 2 and drop the last incomplete batch"
        )


def _cross_entropy(block: Tensor, same: Tensor | None, targets: str) -> Tensor:
    if same is None or targets == "diagonal":
        return functional.cross_entropy(block, torch.arange(len(block), device=block.device))
    if targets == "multi_positive":
        weights = same.to(block.dtype) / same.sum(dim=1, keepdim=True)
        return -(weights * block.log_softmax(dim=1)).sum(dim=1).mean()
    others = same & ~torch.eye(len(block), dtype=torch.bool, device=block.device)
    # The diagonal always stays, so no row of the softmax is empty.
    return functional.cross_entropy(
        block.masked_fill(others, float("-inf")), torch.arange(len(block), device=block.device)
    )
