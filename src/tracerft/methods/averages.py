"""Direct finetuning whose trajectory is averaged, and the average is the model: EMA, SWA, LAWA.

The average does not act on the student; TRACER's teacher does.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from tracerft.averaging import LAWA, Kernel, Teacher, swa_kernel
from tracerft.methods.base import Ingredients, Method, MethodInfo
from tracerft.methods.contrastive import COST, USES, Contrastive
from tracerft.methods.self_distillation import CLOCK, ema_kernel, make_teacher
from tracerft.models.effective import effective, unadapted

SNAPSHOTS = 10  # in a run, for LAWA: once an epoch in a recipe of ten


class Averaged(Contrastive):
    """FLYP, and an average of its weights as a second model, named ``average``.

    Args:
        name: as in the METHODS table.
        average: makes it from the pretrained model and the number of optimiser steps.
        targets, cross_frobenius_weight: as for `Contrastive`.
    """

    def __init__(
        self,
        name: str,
        *,
        average: Callable[[nn.Module, int], Teacher | LAWA],
        targets: str = "diagonal",
        cross_frobenius_weight: float = 0.0,
    ) -> None:
        super().__init__(name, targets=targets, cross_frobenius_weight=cross_frobenius_weight)
        self._make_average = average

    def start(self, model: nn.Module, total_steps: int) -> None:
        """Begin the average at the pretrained model."""
        super().start(model, total_steps)
        self.average = self._make_average(unadapted(model), total_steps)

    def copies(self) -> Mapping[str, nn.Module]:
        """The average too."""
        return {**super().copies(), "average": self.average.averaged}

    def after_step(self, model: nn.Module) -> None:
        """Take the student in."""
        self.average.update(effective(model))

    def models(self) -> Mapping[str, nn.Module]:
        """The student and the average."""
        return {**super().models(), "average": self.average.averaged}

    def state_dict(self) -> dict[str, Any]:
        """The average with its clock."""
        return super().state_dict() | {"average": self.average.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the average back."""
        super().load_state_dict(state)
        self.average.load_state_dict(state["average"])


def _swa_kernel(i: Ingredients) -> Kernel:
    return swa_kernel(i.weights["swa_start"])


def _of_kernel(name: str, kernel: Callable[[Ingredients], Kernel], i: Ingredients) -> Method:
    average = make_teacher(i, kernel(i))
    cross = i.weights["cross_frobenius"]
    return Averaged(name, average=average, targets=i.loss.targets, cross_frobenius_weight=cross)


def _lawa(i: Ingredients) -> Method:
    window = int(i.weights["window"])

    def average(model: nn.Module, steps: int) -> LAWA:
        return LAWA(model, window, update_every=max(1, steps // SNAPSHOTS))

    cross = i.weights["cross_frobenius"]
    return Averaged("lawa", average=average, targets=i.loss.targets, cross_frobenius_weight=cross)


def _row(name: str, **fields: Any) -> MethodInfo:
    return MethodInfo(name=name, family="weight space", cost=COST, copies=1, shards=True, **fields)


ROWS = (
    _row(
        "ema",
        paper="Polyak, Juditsky, 1992; Tarvainen, Valpola, NeurIPS 2017, arXiv 1703.01780",
        year=2017,
        summary="Direct finetuning; the exponential moving average of its weights is the model.",
        uses=(*USES, *CLOCK, "teacher.momentum"),
        kernel=ema_kernel,
        build=partial(_of_kernel, "ema", ema_kernel),
    ),
    _row(
        "swa",
        paper="Izmailov, Podoprikhin, Garipov, Vetrov, Wilson, UAI 2018, arXiv 1803.05407",
        year=2018,
        summary="Direct finetuning; the equal mean of the weights of its last part is the model.",
        uses=(*USES, *CLOCK, "teacher.swa_start"),
        kernel=_swa_kernel,
        build=partial(_of_kernel, "swa", _swa_kernel),
    ),
    _row(
        "lawa",
        paper="Kaddour, 2022, arXiv 2209.14981",
        year=2022,
        summary="Direct finetuning; the mean of the last few of ten snapshots is the model.",
        uses=(*USES, "teacher.window"),
        build=_lawa,
    ),
)
