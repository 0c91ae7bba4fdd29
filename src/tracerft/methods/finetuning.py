"""What all methods that train one student share: references, weight penalties, state."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tracerft.errors import ArgumentError
from tracerft.losses import l2_sp
from tracerft.models.effective import trained_tensors, unadapted
from tracerft.models.lora import without_lora
from tracerft.types import Batch, Embeddings, LossTerms

Weighted = Mapping[str, tuple[float, Tensor]]  # by name, coefficient and value
OUTSIDE = ("logit_scale", "logit_bias", "class_head.weight", "class_head.bias")  # not pulled to their start


class Finetuning:
    """A student and what holds its weights; subclasses say what it learns.

    Args:
        name: as in the METHODS table.
        l2_sp_weight: lambda >= 0 of (lambda/2) ||theta - theta_0||^2 (Li et al. 2018) over what trains, logit scale
            and class head left out; of adapted weights, over what the adapters add to them.
        weight: coefficient >= 0 of a term against the pretrained model, which is then a reference; 0 without one.
        coefficients: options of the method and their values, to be checked: finite and not negative.
    """

    def __init__(
        self,
        name: str,
        *,
        l2_sp_weight: float = 0.0,
        weight: float = 0.0,
        coefficients: Mapping[str, float] | None = None,
    ) -> None:
        for option, value in {"loss.l2_sp": l2_sp_weight, **(coefficients or {})}.items():
            if not (0.0 <= value < float("inf")):
                raise ArgumentError(f"`{option}` must be a finite number >= 0; got {value}; 0 turns the term off")
        self.name = name
        self.l2_sp_weight, self.weight = l2_sp_weight, weight
        self._pretrained: nn.Module | None = None
        self._anchors: dict[str, Tensor] = {}

    def start(self, model: nn.Module, total_steps: int) -> None:
        """Remember the pretrained weights if a term needs them."""
        self._model = model
        self._pretrained = frozen_copy(model) if self.weight > 0 else None
        if self.l2_sp_weight > 0:
            self._anchors = {name: value.detach().clone() for name, value in self._penalised(model).items()}

    @staticmethod
    def _penalised(model: nn.Module) -> dict[str, Tensor]:
        return {name: value for name, value in trained_tensors(model).items() if name not in OUTSIDE}

    def references(self) -> Mapping[str, nn.Module]:
        """The pretrained model, if a term listens to it."""
        return {} if self._pretrained is None or self.weight == 0 else {"pretrained": self._pretrained}

    def copies(self) -> Mapping[str, nn.Module]:
        """Models kept beside the student, by name; split over ranks as it is where `MethodInfo.shards` says so."""
        return {} if self._pretrained is None else {"pretrained": self._pretrained}

    def objective(self, student: Embeddings, references: Mapping[str, Embeddings], batch: Batch) -> LossTerms:
        """The loss of one batch."""
        raise NotImplementedError

    def penalty_terms(self, model: nn.Module) -> Weighted:
        """Terms on weights with a coefficient above 0."""
        if not self._anchors:  # no weight on it, or nothing but the head trains
            return {}
        return {"l2_sp": (self.l2_sp_weight, l2_sp(self._penalised(model), self._anchors))}

    def penalty(self, model: nn.Module) -> LossTerms | None:
        """Their sum; ``None`` if there are none, or they are constant since what they are of is frozen."""
        terms = self.penalty_terms(model)
        if not any(value.requires_grad for _, value in terms.values()):
            return None
        total = torch.stack([weight * value for weight, value in terms.values()]).sum()
        return LossTerms(total, {name: value.detach() for name, (_, value) in terms.items()})

    def after_step(self, model: nn.Module) -> None:
        """Nothing."""

    def models(self) -> Mapping[str, nn.Module]:
        """The student, adapters merged."""
        return {"student": without_lora(self._model)}

    def state_dict(self) -> dict[str, Any]:
        """What is left of the start, so that a resumed run never depends on the pretrained file still being there."""
        kept = {} if self._pretrained is None else {"pretrained": dict(self._pretrained.state_dict())}
        return {"anchors": dict(self._anchors), **kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put it back."""
        for name, value in state.get("anchors", {}).items():
            self._anchors[name].copy_(value)
        if self._pretrained is not None:
            self._pretrained.load_state_dict(state["pretrained"])


class Stepped(Finetuning):
    """Counts the optimiser steps: what a method draws anew at each is keyed by ``_step``, and so is resumed exactly."""

    _step = 0

    def start(self, model: nn.Module, total_steps: int) -> None:
        """Begin at step 0."""
        super().start(model, total_steps)
        self._step = 0

    def after_step(self, model: nn.Module) -> None:
        """Other draws at the next step."""
        super().after_step(model)
        self._step += 1

    def state_dict(self) -> dict[str, Any]:
        """The step too."""
        return super().state_dict() | {"step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put all back."""
        super().load_state_dict(state)
        self._step = int(state["step"])


def frozen_copy(model: nn.Module) -> nn.Module:
    """The pretrained model as a reference: its own tensors, in eval mode, without gradients."""
    return copy.deepcopy(unadapted(model)).requires_grad_(False).eval()
