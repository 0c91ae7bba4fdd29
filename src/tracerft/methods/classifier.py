"""Finetuning by cross-entropy with a class head that starts as the zero-shot classifier: the tables' direct FT."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tracerft.errors import ArgumentError
from tracerft.losses import cross_entropy
from tracerft.methods.base import Ingredients, Method, MethodInfo
from tracerft.methods.finetuning import Finetuning
from tracerft.models.head import need_head
from tracerft.types import Batch, Embeddings, LossTerms


class CrossEntropy(Finetuning):
    """Image tower and head on the labels (WiSE-FT's finetuning), perhaps held by one term against theta_0.

    A subclass that has such a term defines `distance` and gives it a ``weight``.

    Args:
        name: as in the METHODS table.
        l2_sp_weight: as for `Finetuning`.
        option: of the term's coefficient, such as ``loss.context``; its last part names the term in the log.
        weight: that coefficient, >= 0; at 0 nothing but the cross-entropy is computed.
    """

    def __init__(self, name: str, *, l2_sp_weight: float = 0.0, option: str = "", weight: float = 0.0) -> None:
        super().__init__(name, l2_sp_weight=l2_sp_weight, weight=weight, coefficients={option: weight})
        self.term = option.rpartition(".")[2]

    def start(self, model: nn.Module, total_steps: int) -> None:
        """See `Finetuning.start`.

        Raises:
            ArgumentError: if the model has no class head, see `tracerft.models.head.attach_head`.
        """
        need_head(model)
        super().start(model, total_steps)

    def objective(self, student: Embeddings, references: Mapping[str, Embeddings], batch: Batch) -> LossTerms:
        """Cross-entropy of the head, and the term.

        Raises:
            ArgumentError: if the batch has no labels.
        """
        if batch.labels is None:
            raise ArgumentError(
                "`batch.labels` must hold class ids (N,) for cross-entropy; got None; give labelled data"
            )
        loss = cross_entropy(head_logits(student), batch.labels)
        parts = {"cross_entropy": loss.detach()}
        if self.weight > 0:
            value = self.distance(student, references["pretrained"])
            loss, parts[self.term] = loss + self.weight * value, value.detach()
        return LossTerms(loss, parts)

    def distance(self, student: Embeddings, pretrained: Embeddings) -> Tensor:
        """What grows as the student leaves the pretrained model: a scalar >= 0, 0 at theta_0."""
        raise NotImplementedError


def head_logits(embeddings: Embeddings) -> Tensor:
    """``(N, C)`` logits of a class head, in float32 even inside autocast."""
    with torch.autocast(embeddings.image.device.type, enabled=False):
        wide = torch.promote_types(embeddings.image.dtype, torch.float32)
        logits = embeddings.scale.to(wide) * embeddings.image.to(wide) @ embeddings.text.to(wide).T
        return logits if embeddings.bias is None else logits + embeddings.bias.to(wide)


def _l2_sp(i: Ingredients) -> Method:
    return CrossEntropy("l2_sp", l2_sp_weight=i.weights["l2_sp"])


ROWS = (
    MethodInfo(
        name="ce_ft",
        family="cross-entropy",
        paper="Wortsman et al., CVPR 2022, arXiv 2109.01903 (its finetuning)",
        year=2022,
        summary="Image tower and a head that starts as the zero-shot classifier; direct FT of the tables.",
        cost="3",
        head=True,
        shards=True,
        build=lambda i: CrossEntropy("ce_ft"),
    ),
    MethodInfo(
        name="l2_sp",
        family="cross-entropy",
        paper="Li, Grandvalet, Davoine, ICML 2018, arXiv 1802.01483",
        year=2018,
        summary="Cross-entropy with a quadratic pull of the image tower towards the pretrained weights.",
        cost="3",
        uses=("loss.l2_sp",),
        strength="loss.l2_sp",
        head=True,
        build=_l2_sp,
    ),
)
