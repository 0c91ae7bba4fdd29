"""Contrastive finetuning held back by a teacher: TRACER, EMA and static self-distillation are one class.

They differ in the rule by which the teacher follows the student, and in nothing else.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from tracerft.averaging import Kernel, Teacher, exponential_kernel, frozen_kernel
from tracerft.losses import TracerLoss
from tracerft.methods.base import Ingredients, Method, MethodInfo
from tracerft.methods.contrastive import USES, Contrastive
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

    def copies(self) -> Mapping[str, nn.Module]:
        """The teacher too."""
        return {**super().copies(), "teacher": self.teacher.averaged}

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


COST = "4 (1 + tau)"
DISTILLATION = (*USES, "loss.sd_weight", "loss.fd", "loss.crd", "loss.icl", "loss.cross_kd")
CLOCK = ("teacher.update_every", "teacher.weighting")


def wma_kernel(i: Ingredients) -> Kernel:
    """Beta(a, b) on normalised time."""
    return i.kernel


def ema_kernel(i: Ingredients) -> Kernel:
    """A constant momentum."""
    return exponential_kernel(i.momentum)


def static_kernel(i: Ingredients) -> Kernel:
    """The pretrained model for ever."""
    return frozen_kernel()


def make_teacher(i: Ingredients, kernel: Kernel) -> Callable[[nn.Module, int], Teacher]:
    """How a teacher of this kernel is built once model and length are known."""
    return lambda model, steps: Teacher(model, steps, kernel, i.update_every, i.weighting)


def _distil(name: str, kernel: Callable[[Ingredients], Kernel], i: Ingredients) -> Method:
    teacher = make_teacher(i, kernel(i))
    return SelfDistillation(name, loss=i.loss, teacher=teacher, cross_frobenius_weight=i.weights["cross_frobenius"])


def _row(name: str, kernel: Callable[[Ingredients], Kernel], **fields: Any) -> MethodInfo:
    return MethodInfo(
        name=name,
        family="contrastive",
        cost=COST,
        strength="loss.sd_weight",
        kernel=kernel,
        copies=1,
        shards=True,
        build=partial(_distil, name, kernel),
        **fields,
    )


ROWS = (
    _row(
        "sd_static",
        static_kernel,
        paper="Asadollahzadeh, Liu, Leckie, Erfani, ICML 2026, arXiv 2605.29380 (control)",
        year=2026,
        summary="The four distillation losses of TRACER against the frozen pretrained model.",
        uses=DISTILLATION,
    ),
    _row(
        "sd_ema",
        ema_kernel,
        paper="Tarvainen, Valpola, NeurIPS 2017, arXiv 1703.01780 (teacher)",
        year=2017,
        summary="The four distillation losses of TRACER against an exponential moving average of the student.",
        uses=(*DISTILLATION, *CLOCK, "teacher.momentum"),
    ),
    _row(
        "tracer",
        wma_kernel,
        paper="Asadollahzadeh, Liu, Leckie, Erfani, ICML 2026, arXiv 2605.29380",
        year=2026,
        summary="The four distillation losses against the weighted moving average of the whole trajectory.",
        uses=(*DISTILLATION, *CLOCK, "teacher.a", "teacher.b"),
    ),
)
