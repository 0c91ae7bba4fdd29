"""The TRACER objective: contrastive loss plus weighted self-distillation (Section 4, Algorithm 1).

Owns the weights and nothing else; the terms are the pure functions beside it.

Legend: L = L_MMCL + sd_weight * (fd * FD + crd * CRD + icl * ICL + cross_kd * CrossKD); N pairs in a batch.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from numbers import Real
from typing import Any

from torch import Tensor, nn

from tracerft.errors import ArgumentError, one_of
from tracerft.losses.contrastive import TARGETS, contrastive_loss, same_caption, symmetric_cross_entropy
from tracerft.losses.distillation import SimilarityBlocks
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

    Raises:
        ArgumentError: if a weight is negative or not finite, or targets is unknown.

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
    ) -> None:
        super().__init__()
        one_of("targets", targets, TARGETS)
        self.sd_weight = _weight("sd_weight", sd_weight)
        self.weights = {
            name: _weight(name, value)
            for name, value in (("fd", fd), ("crd", crd), ("icl", icl), ("cross_kd", cross_kd))
        }
        self.targets = targets

    def forward(self, student: ModelOutput, teacher: ModelOutput, labels: Tensor | None = None) -> LossTerms:
        """The weighted total and its parts for one batch.

        Args:
            student: N pairs, N >= 2, as `Embeddings` or open_clip's tuple or dict.
            teacher: the same for the teacher; no gradient flows into it. Not read if no term needs it.
            labels: ``(N,)`` integer caption ids; needed unless targets is ``diagonal``.

        Returns:
            ``total`` ``()`` with gradient; ``parts`` ``contrastive``, ``fd``, ``crd``, ``icl``, ``cross_kd``, each
            before its weight and detached. A term of weight 0 is not computed and has no entry.

        Raises:
            ArgumentError: if an output is not readable, or labels are missing or not integers.
            ShapeError: if student and teacher differ in shape, there is one pair only, or labels are not ``(N,)``.
        """
        pairs = Embeddings.of(student)
        active = {name: weight for name, weight in self.weights.items() if self.sd_weight * weight > 0}
        if not active:
            contrastive = contrastive_loss(pairs, self.targets, labels)
            return LossTerms(contrastive, {"contrastive": contrastive.detach()})
        blocks = SimilarityBlocks(pairs, Embeddings.of(teacher))
        same = same_caption(labels, self.targets, len(pairs.image), pairs.image.device)
        terms: dict[str, Callable[[], Tensor]] = {
            "fd": blocks.feature_distillation,
            "crd": blocks.contrastive_relational_distillation,
            "icl": partial(blocks.interactive_contrastive_loss, same, self.targets),
            "cross_kd": blocks.cross_kd,
        }
        total = symmetric_cross_entropy(blocks.student, blocks.student.T, same, self.targets)
        parts = {"contrastive": total.detach()}
        for name, weight in active.items():
            term = terms[name]()
            parts[name] = term.detach()
            total = total + self.sd_weight * weight * term
        return LossTerms(total, parts)

    def extra_repr(self) -> str:
        """The weights and the targets, for ``print(loss)``."""
        weights = ", ".join(f"{name}={value:g}" for name, value in self.weights.items())
        return f"sd_weight={self.sd_weight:g}, {weights}, targets={self.targets!r}"


def _weight(name: str, value: object) -> float:
    if not isinstance(value, Real) or not math.isfinite(value) or value < 0:
        raise ArgumentError(f"`{name}` must be a finite number >= 0; got {value!r}; use 0 to switch the term off")
    return float(value)
