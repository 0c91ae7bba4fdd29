"""Distillation of image embeddings from the frozen pretrained model: static SD as TRACER's theory has it."""

from collections.abc import Mapping

from tracerft.losses import image_feature_distillation
from tracerft.methods.base import Ingredients, Method, MethodInfo
from tracerft.methods.contrastive import USES, Contrastive
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
            weight=weight,
            coefficients={"loss.feature_kd": weight},
        )

    def objective(self, student: Embeddings, references: Mapping[str, Embeddings], batch: Batch) -> LossTerms:
        """InfoNCE and the distance to the pretrained embeddings."""
        terms = super().objective(student, references, batch)
        if not references:
            return terms
        value = image_feature_distillation(student.image, references["pretrained"].image)
        return LossTerms(terms.total + self.weight * value, {**terms.parts, "feature_kd": value.detach()})


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
        shards=True,
        build=_build,
    ),
)
