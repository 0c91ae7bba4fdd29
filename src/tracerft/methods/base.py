"""The seam between methods and the trainer.

A method never runs the training step; it says what the step needs. The trainer embeds, gathers,
steps and resumes, so mixed precision, resume and ranks work for every method without a line in it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from tracerft.averaging import Kernel
from tracerft.losses import TracerLoss
from tracerft.types import Batch, Embeddings, LossTerms

Tokenize = Callable[[Sequence[str]], Tensor]


class Method(Protocol):
    """What a finetuning method tells the trainer; any object with these members works.

    One that reads inner features also has ``layers``, the names of modules of the image tower: their pooled outputs
    come in ``Embeddings.features``, of the student and of the references.
    """

    name: str

    def start(self, model: nn.Module, total_steps: int) -> None:
        """Build references and teacher from the pretrained model, before the first step."""
        ...

    def references(self) -> Mapping[str, nn.Module]:
        """Models whose embeddings of the batch the objective reads, without gradient."""
        ...

    def objective(self, student: Embeddings, references: Mapping[str, Embeddings], batch: Batch) -> LossTerms:
        """The loss of one batch, of the rows of all ranks; on several, its images and tokens have no content."""
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


Examples = Callable[[nn.Module], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Ingredients:
    """The parts from which a named method is built; each uses what it needs.

    Args:
        loss: contrastive and distillation terms with their weights.
        weights: coefficients and numbers of the single methods, by the name of their option.
        kernel: of the WMA teacher.
        momentum: of the EMA teacher, per update.
        update_every: optimiser steps between teacher updates.
        weighting: ``point`` or ``mass``.
        tokenize: captions to token ids.
        prompts: of each class in label order; empty where the data has no labels.
        anchors: extra pairs for ARF, see `tracerft.methods.arf.Anchors`.
        examples: unit-norm embeddings ``(n, D)`` by a model, and labels ``(n,)``, of all training images without
            augmentation; decodes them anew at each call.
        probe: solver of a linear probe, ``sgd`` or ``lbfgs``.
        seed: of the run.
    """

    loss: TracerLoss
    weights: Mapping[str, float]
    kernel: Kernel
    momentum: float
    update_every: int
    weighting: str
    tokenize: Tokenize | None = None
    prompts: Sequence[Sequence[str]] = ()
    anchors: Any = None  # typed in arf.py, which imports this file
    examples: Examples | None = None
    probe: str = "sgd"
    seed: int = 0


Build = Callable[[Ingredients], Method]


@dataclass(frozen=True, kw_only=True)
class MethodInfo:
    """A line of the METHODS table.

    Args:
        name: as given on the command line.
        family: ``cross-entropy``, ``contrastive`` or ``weight space``.
        paper: authors, venue, arXiv number.
        year: of the paper.
        summary: one sentence.
        cost: per pair and step, in forwards of the image tower; tau is a text forward in that unit.
        extra_data: what the method needs beside image-text pairs.
        uses: the options it reads, as ``group.name``.
        strength: the option that says how strongly it holds to the pretrained model; empty if none does.
        kernel: rule of its averaged model, from its ingredients; ``None`` without one.
        copies: models that it keeps beside the student.
        head: whether a class head is trained on the labels, and the text tower stays.
        shards: whether it reads weights number by number, so that they may be split over ranks, see
            `tracerft.training.shards`; it then has ``copies``, the models that it keeps beside the student.
        folded: how the head starts, see `tracerft.models.head.attach_head`.
        trains: whether there are optimiser steps; without, all happens at the start.
        build: ingredients to method; ``None`` for one that does not train, see ``how``.
        how: for a method that does not train, the command that makes it.
    """

    name: str
    family: str
    paper: str
    year: int
    summary: str
    cost: str
    extra_data: str = "none"
    uses: tuple[str, ...] = ()
    strength: str = ""
    kernel: Callable[[Ingredients], Kernel] | None = None
    copies: int = 0
    head: bool = False
    shards: bool = False
    folded: bool = True
    trains: bool = True
    build: Build | None = None
    how: str = ""
