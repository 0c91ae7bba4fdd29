"""Contrastive finetuning: FLYP, with L2-SP as an option, and WiSE-FT, which interpolates its result."""

from collections.abc import Mapping

from torch import nn

from tracerft.averaging import interpolate
from tracerft.losses import cross_frobenius, pair_loss
from tracerft.methods.base import Ingredients, Method, MethodInfo
from tracerft.methods.finetuning import Finetuning, Weighted, frozen_copy
from tracerft.models.encoder import projections
from tracerft.types import Batch, Embeddings, LossTerms


class Contrastive(Finetuning):
    """The pretraining loss on the pairs (FLYP, Goyal et al. 2023): InfoNCE, or for SigLIP the sigmoid loss.

    Args:
        name: as in the METHODS table.
        targets: how equal captions in a batch count, see `pair_loss`.
        l2_sp_weight: as for `Finetuning`.
        cross_frobenius_weight: coefficient >= 0 of ||P_I P_T^T||_F.
        weight, coefficients: as for `Finetuning`.
    """

    def __init__(
        self,
        name: str,
        *,
        targets: str = "diagonal",
        l2_sp_weight: float = 0.0,
        cross_frobenius_weight: float = 0.0,
        weight: float = 0.0,
        coefficients: Mapping[str, float] | None = None,
    ) -> None:
        checked = {"loss.cross_frobenius": cross_frobenius_weight, **(coefficients or {})}
        super().__init__(name, l2_sp_weight=l2_sp_weight, weight=weight, coefficients=checked)
        self.targets = targets
        self.cross_frobenius_weight = cross_frobenius_weight

    def start(self, model: nn.Module, total_steps: int) -> None:
        """Remember what the penalties need."""
        super().start(model, total_steps)
        if self.cross_frobenius_weight > 0:
            projections(model)  # fails now rather than after the first batch

    def objective(self, student: Embeddings, references: Mapping[str, Embeddings], batch: Batch) -> LossTerms:
        """InfoNCE of the batch."""
        loss = pair_loss(student, self.targets, batch.caption_ids)
        return LossTerms(loss, {"contrastive": loss.detach()})

    def penalty_terms(self, model: nn.Module) -> Weighted:
        """L2-SP and cross-Frobenius terms, those with a weight above 0."""
        terms = dict(super().penalty_terms(model))
        if self.cross_frobenius_weight > 0:
            terms["cross_frobenius"] = (self.cross_frobenius_weight, cross_frobenius(*projections(model)))
        return terms


class WiseFT(Contrastive):
    """WiSE-FT (Wortsman et al. 2022): finetune, then (1 - alpha) theta_0 + alpha theta_1.

    Args:
        alpha: share of the finetuned weights in [0, 1].
        targets, cross_frobenius_weight: as for `Contrastive`.
    """

    def __init__(self, *, alpha: float = 0.5, targets: str = "diagonal", cross_frobenius_weight: float = 0.0) -> None:
        super().__init__("wise_ft", targets=targets, cross_frobenius_weight=cross_frobenius_weight)
        self.alpha = alpha

    def start(self, model: nn.Module, total_steps: int) -> None:
        """Keep the pretrained model."""
        super().start(model, total_steps)
        self._pretrained = frozen_copy(model)

    def models(self) -> Mapping[str, nn.Module]:
        """The finetuned model and the interpolated one."""
        student = super().models()["student"]
        assert self._pretrained is not None  # for the type checker; see start
        merged = interpolate(self._pretrained, student, self.alpha)
        return {"student": student, f"student-wise-{self.alpha:.2f}": merged}


USES = ("loss.targets", "loss.cross_frobenius")
COST = "3 (1 + tau)"


def _direct(i: Ingredients) -> Method:
    return Contrastive("flyp", targets=i.loss.targets, cross_frobenius_weight=i.weights["cross_frobenius"])


def _l2_sp(i: Ingredients) -> Method:
    pull, cross = i.weights["l2_sp"], i.weights["cross_frobenius"]
    return Contrastive("contrastive_l2_sp", targets=i.loss.targets, l2_sp_weight=pull, cross_frobenius_weight=cross)


def _wise_ft(i: Ingredients) -> Method:
    alpha, cross = i.weights["alpha"], i.weights["cross_frobenius"]
    return WiseFT(alpha=alpha, targets=i.loss.targets, cross_frobenius_weight=cross)


ROWS = (
    MethodInfo(
        name="flyp",
        family="contrastive",
        paper="Goyal, Kumar, Garg, Kolter, Raghunathan, CVPR 2023, arXiv 2212.00638",
        year=2023,
        summary="Direct contrastive finetuning: the pretraining loss on the new pairs, nothing else.",
        cost=COST,
        uses=USES,
        shards=True,
        build=_direct,
    ),
    MethodInfo(
        name="contrastive_l2_sp",
        family="contrastive",
        paper="Li, Grandvalet, Davoine, ICML 2018, arXiv 1802.01483",
        year=2018,
        summary="Direct finetuning with a quadratic pull of the weights towards the pretrained ones.",
        cost=COST,
        uses=(*USES, "loss.l2_sp"),
        strength="loss.l2_sp",
        build=_l2_sp,
    ),
    MethodInfo(
        name="wise_ft",
        family="weight space",
        paper="Wortsman et al., CVPR 2022, arXiv 2109.01903",
        year=2022,
        summary="Direct finetuning, then a straight line in weight space between pretrained and finetuned.",
        cost=COST,
        uses=(*USES, "teacher.alpha"),
        copies=1,
        shards=True,
        build=_wise_ft,
    ),
)
