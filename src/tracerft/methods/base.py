"""The seam between methods and the trainer.

A method never runs the training step; it says what the step needs. The trainer embeds, steps and
resumes, so mixed precision, resume and (later) ranks work for every method without a line in it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from tracerft.averaging import Kernel
from tracerft.losses import TracerLoss
from tracerft.types import Batch, Embeddings, LossTerms


class Method(Protocol):
    """What a finetuning method tells the trainer; any object with these members works."""

    name: str

    def start(self, model: nn.Module, total_steps: int) -> None:
        """Build references and teacher from the pretrained model, before the first step."""
        ...

    def references(self) -> Mapping[str, nn.Module]:
        """Models whose embeddings of the batch the objective reads, without gradient."""
        ...

    def objective(self, student: Embeddings, references: Mapping[str, Embeddings], batch: Batch) -> LossTerms:
        """The loss of one batch."""
        ...

    def penalty(self, model: nn.Module) -> LossTerms | None:
        """Terms on weights, once an optimiser step; ``None`` if there are none."""
        ...

    def after_step(self, model: nn.Module) -> None:
        """Called once after each optimiser step."""
        ...

    def models(self) -> Mapping[str, nn.Module]:
        """Models to evaluate when training is over, by name."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What must be saved to go on exactly: tensors and plain values, nested."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave; called after `start`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Ingredients:
    """The parts from which a named method is built; each uses what it needs.

    Args:
        loss: contrastive and distillation terms with their weights.
        l2_sp: coefficient lambda of (lambda/2) ||theta - theta_0||^2.
        cross_frobenius: coefficient of ||P_I P_T^T||_F.
        kernel: of the WMA teacher.
        momentum: of the EMA teacher, per update.
        update_every: optimiser steps between teacher updates.
        weighting: ``point`` or ``mass``.
        alpha: share of the finetuned weights in an interpolation.
    """

    loss: TracerLoss
    l2_sp: float
    cross_frobenius: float
    kernel: Kernel
    momentum: float
    update_every: int
    weighting: str
    alpha: float


@dataclass(frozen=True, kw_only=True)
class MethodInfo:
    """A line of the METHODS table.

    Args:
        name: as given on the command line.
        paper: authors, venue, arXiv number.
        year: of the paper.
        summary: one sentence.
        cost: per pair and step, in forwards of the image tower; tau is a text forward in that unit.
        extra_data: what the method needs beside image-text pairs.
        uses: the options it reads, as ``group.name``.
        build: ingredients to method.
    """

    name: str
    paper: str
    year: int
    summary: str
    cost: str
    extra_data: str
    uses: tuple[str, ...]
    build: Callable[[Ingredients], Method]
