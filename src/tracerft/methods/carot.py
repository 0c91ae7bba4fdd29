"""CaRot (Oh et al., NeurIPS 2024): orthogonal projections and an average of the student that soon follows it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tracerft.averaging import Kernel, Teacher, carot_kernel
from tracerft.errors import one_of
from tracerft.losses import cross_distillation, cross_frobenius, orthogonality
from tracerft.methods.base import Ingredients, Method, MethodInfo
from tracerft.methods.contrastive import Contrastive
from tracerft.methods.finetuning import Weighted
from tracerft.models.effective import effective, unadapted
from tracerft.models.encoder import projections
from tracerft.types import Batch, Embeddings, LossTerms

UPDATES = 50  # of the teacher in a run: every 500 of 25,030 steps, as published


class CaRot(Contrastive):
    """L = InfoNCE + sd L_SD + orth ||P_I^T P_I - I||_F^power + cross ||P_I P_T^T||_F.

    Args:
        sd: weight >= 0 of the two cross-entropies with the teacher's similarities, summed.
        orth: weight >= 0 of the image projection's distance from orthogonality.
        power: 1 as in the published code, 2 as in the paper.
        cross: weight >= 0 of the product of both projections.
        every: steps between teacher updates; ``None`` is a fiftieth of the run, as published.
        targets: as for `Contrastive`.
    """

    def __init__(
        self,
        *,
        sd: float = 1.5,
        orth: float = 0.2,
        power: int = 1,
        cross: float = 0.05,
        every: int | None = None,
        targets: str = "diagonal",
    ) -> None:
        one_of("loss.orthogonality_power", str(power), ("1", "2"))
        checked = {"loss.carot_sd": sd, "loss.orthogonality": orth, "loss.carot_cross": cross}
        super().__init__("carot", targets=targets, coefficients=checked)
        self.sd, self.orth, self.power, self.cross, self.every = sd, orth, power, cross, every

    def start(self, model: nn.Module, total_steps: int) -> None:
        """Copy the pretrained model into the teacher."""
        super().start(model, total_steps)
        if self.orth or self.cross:
            projections(model)  # fails now rather than after the first batch
        every = self.every or max(1, round(total_steps / UPDATES))
        self.teacher = Teacher(unadapted(model), total_steps, carot_kernel(), every)

    def references(self) -> Mapping[str, nn.Module]:
        """The teacher, if it is listened to."""
        return {"teacher": self.teacher.averaged} if self.sd else {}

    def objective(self, student: Embeddings, references: Mapping[str, Embeddings], batch: Batch) -> LossTerms:
        """InfoNCE and distillation."""
        terms = super().objective(student, references, batch)
        if not self.sd:
            return terms
        value = cross_distillation(student, references["teacher"])
        return LossTerms(terms.total + self.sd * value, {**terms.parts, "carot_sd": value.detach()})

    def penalty_terms(self, model: nn.Module) -> Weighted:
        """Both terms on projections."""
        terms = dict(super().penalty_terms(model))
        if self.orth:
            terms["orthogonality"] = (self.orth, orthogonality(projections(model)[0], self.power))
        if self.cross:
            terms["carot_cross"] = (self.cross, cross_frobenius(*projections(model)))
        return terms

    @torch.no_grad()
    def after_step(self, model: nn.Module) -> None:
        """One step of the teacher's clock."""
        self.teacher.update(effective(model))

    def models(self) -> Mapping[str, nn.Module]:
        """Student and teacher; published numbers are the student's."""
        return {**super().models(), "teacher": self.teacher.averaged}

    def state_dict(self) -> dict[str, Any]:
        """The teacher with its clock."""
        return super().state_dict() | {"teacher": self.teacher.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the teacher back."""
        super().load_state_dict(state)
        self.teacher.load_state_dict(state["teacher"])


def _kernel(i: Ingredients) -> Kernel:
    return carot_kernel()


def _build(i: Ingredients) -> Method:
    w = i.weights
    terms = {"sd": w["carot_sd"], "orth": w["orthogonality"], "cross": w["carot_cross"]}
    every = int(w["carot_every"]) or None
    return CaRot(**terms, power=int(w["orthogonality_power"]), every=every, targets=i.loss.targets)


ROWS = (
    MethodInfo(
        name="carot",
        family="contrastive",
        paper="Oh, Lim, Kim, Han, Yun, Choo, Hauptmann, Cheng, Song, NeurIPS 2024, arXiv 2311.01723",
        year=2024,
        summary="Orthogonal image projection, and distillation from an average that soon follows the student.",
        cost="4 (1 + tau)",
        uses=(
            "loss.targets",
            "loss.carot_sd",
            "loss.orthogonality",
            "loss.orthogonality_power",
            "loss.carot_cross",
            "teacher.carot_every",
        ),
        strength="loss.carot_sd",
        copies=1,
        build=_build,
    ),
)
