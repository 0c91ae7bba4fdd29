"""Distillation of image embeddings from the frozen pretrained model: static SD as TRACER's theory has it."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from tracerft.losses import image_feature_distillation
from tracerft.methods.base import Ingredients, Method, MethodInfo
from tracerft.methods.contrastive import USES, Contrastive
from tracerft.methods.finetuning import frozen_copy
from tracerft.types import Batch, Embeddings, LossTerms


class SDFeat(Contrastive):
    """L = InfoNCE + lambda/2 mean ||h - h_0||^2 over the image embeddings of the batch (Section 3).

    Args:
        weight: lambda >= 0.
        targets: as for `Contrastive`.
        cross_frobenius_weight: as for `Contrastive`.
    """

    def __init__(self, weight: float = 1.0, *, targets: str = "diagonal", cross_frobenius_weight: float = 0.0) -> None:
        super().__init__(
            "sd_feat",
            targets=targets,
            cross_frobenius_weight=cross_frobenius_weight,
            coefficients={"loss.feature_kd": weight},
        )
        self.weight = weight

    def start(self, model: nn.Module, total_steps: int) -> None:
        """Keep the pretrained model."""
        super().start(model, total_steps)
        self._pretrained = frozen_copy(model) if self.weight > 0 else None

    def references(self) -> Mapping[str, nn.Module]:
        """The pretrained model, if its embeddings are used."""
        return {} if self._pretrained is None else {"pretrained": self._pretrained}

    def objective(self, student: Embeddings, references: Mapping[str, Embeddings], batch: Batch) -> LossTerms:
        """InfoNCE and the distance to the pretrained embeddings."""
        terms = super().objective(student, references, batch)
        if self._pretrained is None:
            return terms
        value = image_feature_distillation(student.image, references["pretrained"].image)
        return LossTerms(terms.total + self.weight * value, {**terms.parts, "feature_kd": value.detach()})

    def state_dict(self) -> dict[str, Any]:
        """The pretrained state too."""
        kept = {} if self._pretrained is None else {"pretrained": dict(self._pretrained.state_dict())}
        return super().state_dict() | kept

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put both back."""
        super().load_state_dict(state)
        if self._pretrained is not None:
            self._pretrained.load_state_dict(state["pretrained"])


def _build(i: Ingredients) -> Method:
    cross = i.weights["cross_frobenius"]
    return SDFeat(i.weights["feature_kd"], targets=i.loss.targets, cross_frobenius_weight=cross)


ROWS = (
    MethodInfo(
        name="sd_feat",
        family="contrastive",
        paper="Asadollahzadeh, Liu, Leckie, Erfani, ICML 2026, arXiv 2605.29380 (Section 3, static SD)",
        year=2026,
        summary="Direct contrastive finetuning, and image embeddings stay near the pretrained model's.",
        cost="4 + 3 tau",
        uses=(*USES, "loss.feature_kd"),
        strength="loss.feature_kd",
        copies=1,
        build=_build,
    ),
)
