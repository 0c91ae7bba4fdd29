"""Contrastive finetuning held back by a teacher: TRACER, EMA and static self-distillation are one class.

They differ in the rule by which the teacher follows the student, and in nothing else.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from tracerft.averaging import Teacher
from tracerft.losses import TracerLoss
from tracerft.methods.contrastive import Contrastive
from tracerft.models.effective import effective, unadapted
from tracerft.types import Batch, Embeddings, LossTerms


class SelfDistillation(Contrastive):
    """L = InfoNCE + sd_weight (FD + CRD + ICL + CrossKD) against a teacher (Section 4).

    Args:
        name: as in the METHODS table.
        loss: the terms and their weights.
        teacher: makes the teacher from the pretrained model and the number of optimiser steps.
        cross_frobenius_weight: as for `Contrastive`.
    """

    def __init__(
        self,
        name: str,
        *,
        loss: TracerLoss,
        teacher: Callable[[nn.Module, int], Teacher],
        cross_frobenius_weight: float = 0.0,
    ) -> None:
        super().__init__(name, targets=loss.targets, cross_frobenius_weight=cross_frobenius_weight)
        self._loss = loss
        self._distils = loss.sd_weight * max(loss.weights.values()) > 0
        self._make_teacher = teacher

    def start(self, model: nn.Module, total_steps: int) -> None:
        """Copy the pretrained model into the teacher."""
        super().start(model, total_steps)
        self.teacher = self._make_teacher(unadapted(model), total_steps)

    def references(self) -> Mapping[str, nn.Module]:
        """The teacher, unless no term listens to it."""
        return {"teacher": self.teacher.averaged} if self._distils else {}

    def objective(self, student: Embeddings, references: Mapping[str, Embeddings], batch: Batch) -> LossTerms:
        """The contrastive loss and the distillation terms."""
        terms: LossTerms = self._loss(student, references.get("teacher", student), batch.caption_ids)
        return terms

    def after_step(self, model: nn.Module) -> None:
        """One step of the teacher's clock."""
        self.teacher.update(effective(model))

    def models(self) -> Mapping[str, nn.Module]:
        """Student and teacher."""
        return {**super().models(), "teacher": self.teacher.averaged}

    def state_dict(self) -> dict[str, Any]:
        """The teacher with its clock."""
        return {"teacher": self.teacher.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the teacher back; another kernel or length is an error."""
        self.teacher.load_state_dict(state["teacher"])
