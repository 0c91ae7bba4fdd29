"""The TRACER objective: contrastive loss plus weighted self-distillation (Section 4, Algorithm 1).

Owns the weights and nothing else; the terms are the pure functions beside it.

Legend: L = L_MMCL + sd_weight * (fd * FD + crd * CRD + icl * ICL + cross_kd * CrossKD); N pairs in a batch.
A student with a bias is a sigmoid (SigLIP) model: all terms but FD then take the form of `losses.sigmoid`.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from numbers import Real
from typing import Any

from torch import Tensor, nn

from tracerft.errors import ArgumentError, one_of
from tracerft.losses.contrastive import TARGETS, same_caption
from tracerft.losses.distillation import SimilarityBlocks
from tracerft.losses.sigmoid import SigmoidBlocks, pair_loss
from tracerft.losses.tiled import check_tile, is_large, refuse_bias, tiled_loss
from tracerft.types import Embeddings, LossTerms

ModelOutput = Embeddings | tuple[Tensor, ...] | list[Tensor] | Mapping[str, Any]


class TracerLoss(nn.Module):
    """L = L_MMCL + sd_weight * L_SD, with a settable weight for each of the four terms (Section 4).

    Args:
        sd_weight: lambda_SD >= 0; the paper uses 0.9.
        fd: weight of feature distillation (20), >= 0.
        crd: weight of contrastive relational distillation (23), >= 0.
        icl: weight of the interactive contrastive loss (24), >= 0.
        cross_kd: weight of cross knowledge distillation (27), >= 0.
        targets: ``diagonal``, ``multi_positive`` or ``masked``, for the contrastive term and ICL.
        tile: rows of a tile of the similarity blocks, >= 1, see `tiled_loss`: the same loss in memory O(N tile). By
            default blocks are whole up to 4,096 pairs and tiled beyond; the sigmoid form has whole ones only.

    Raises:
        ArgumentError: if a weight is negative or not finite, targets is unknown, or tile is below 1.

    Note:
        Where the student's `Embeddings` carry a bias, the contrastive term, CRD, ICL and CrossKD are pairwise
        sigmoids instead of softmaxes (ours; the paper names SigLIP as future work, F.1). CRD then counts once,
        not once a direction; crd=2 restores its ratio to the other terms. See docs/siglip.md.

    Example:
        >>> import torch
        >>> pairs = (torch.eye(2), torch.eye(2), torch.tensor(1.0))
        >>> sorted(TracerLoss()(pairs, pairs).parts)
        ['contrastive', 'crd', 'cross_kd', 'fd', 'icl']
    """

    def __init__(
        self,
        sd_weight: float = 0.9,
        fd: float = 1.0,
        crd: float = 1.0,
        icl: float = 1.0,
        cross_kd: float = 1.0,
        targets: str = "diagonal",
        tile: int | None = None,
    ) -> None:
        super().__init__()
        one_of("targets", targets, TARGETS)
        check_tile(tile)
        self.sd_weight = _weight("sd_weight", sd_weight)
        self.weights = {
            name: _weight(name, value)
            for name, value in (("fd", fd), ("crd", crd), ("icl", icl), ("cross_kd", cross_kd))
        }
        self.targets = targets
        self.tile = tile

    def forward(self, student: ModelOutput, teacher: ModelOutput, labels: Tensor | None = None) -> LossTerms:
        """The weighted total and its parts for one batch.

        Args:
            student: N pairs, N >= 2 (1 will do in the sigmoid form), as `Embeddings` or open_clip's tuple or
                dict. A bias in it chooses the sigmoid form.
            teacher: the same for the teacher; no gradient flows into it. Not read if no term needs it.
            labels: ``(N,)`` integer caption ids; needed unless targets is ``diagonal``.

        Returns:
            ``total`` ``()`` with gradient; ``parts`` ``contrastive``, ``fd``, ``crd``, ``icl``, ``cross_kd``, each
            before its weight and detached. A term of weight 0 is not computed and has no entry.

        Raises:
            ArgumentError: if an output is not readable, labels are missing or not integers, one of student and
                teacher has a bias and the other has none, or a tile is given and the student has a bias.
            ShapeError: if student and teacher differ in shape, there is one pair only, or labels are not ``(N,)``.
        """
        pairs = Embeddings.of(student)
        active = {name: weight for name, weight in self.weights.items() if self.sd_weight * weight > 0}
        if self.tile is not None or is_large(pairs):
            weights = {"contrastive": 1.0} | {name: self.sd_weight * weight for name, weight in active.items()}
            other = Embeddings.of(teacher) if active else pairs
            return tiled_loss(pairs, other, weights, targets=self.targets, labels=labels, tile=self.tile)
        if not active:
            contrastive = pair_loss(pairs, self.targets, labels)
            return LossTerms(contrastive, {"contrastive": contrastive.detach()})
        blocks = _blocks(pairs, Embeddings.of(teacher))
        same = same_caption(labels, self.targets, len(pairs.image), pairs.image.device)
        terms: dict[str, Callable[[], Tensor]] = {
            "fd": blocks.feature_distillation,
            "crd": blocks.contrastive_relational_distillation,
            "icl": partial(blocks.interactive_contrastive_loss, same, self.targets),
            "cross_kd": blocks.cross_kd,
        }
        total = blocks.contrastive(same, self.targets)
        parts = {"contrastive": total.detach()}
        for name, weight in active.items():
            term = terms[name]()
            parts[name] = term.detach()
            total = total + self.sd_weight * weight * term
        return LossTerms(total, parts)

    def extra_repr(self) -> str:
        """The weights and the targets, for ``print(loss)``."""
        weights = ", ".join(f"{name}={value:g}" for name, value in self.weights.items())
        tile = "" if self.tile is None else f", tile={self.tile}"
        return f"sd_weight={self.sd_weight:g}, {weights}, targets={self.targets!r}{tile}"


def _blocks(student: Embeddings, teacher: Embeddings) -> SimilarityBlocks:
    if student.bias is not None:
        return SigmoidBlocks(student, teacher)
    refuse_bias(teacher)
    return SimilarityBlocks(student, teacher)


def _weight(name: str, value: object) -> float:
    if not isinstance(value, Real) or not math.isfinite(value) or value < 0:
        raise ArgumentError(f"`{name}` must be a finite number >= 0; got {value!r}; use 0 to switch the term off")
    return float(value)
