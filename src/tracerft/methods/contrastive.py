"""Contrastive finetuning: FLYP, with L2-SP as an option, and WiSE-FT, which interpolates its result."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tracerft.averaging import interpolate
from tracerft.errors import ArgumentError
from tracerft.losses import cross_frobenius, l2_sp, pair_loss
from tracerft.models.effective import unadapted
from tracerft.models.encoder import projections
from tracerft.models.lora import without_lora
from tracerft.types import Batch, Embeddings, LossTerms


class Contrastive:
    """The pretraining loss on the pairs (FLYP, Goyal et al. 2023): InfoNCE, or for SigLIP the sigmoid loss.

    Args:
        name: as in the METHODS table.
        targets: how equal captions in a batch count, see `pair_loss`.
        l2_sp_weight: lambda >= 0 of (lambda/2) ||theta - theta_0||^2 over what trains, the logit scale
            left out.
        cross_frobenius_weight: coefficient >= 0 of ||P_I P_T^T||_F.
    """

    def __init__(
        self, name: str, *, targets: str = "diagonal", l2_sp_weight: float = 0.0, cross_frobenius_weight: float = 0.0
    ) -> None:
        for option, value in (("loss.l2_sp", l2_sp_weight), ("loss.cross_frobenius", cross_frobenius_weight)):
            if not (0.0 <= value < float("inf")):
                raise ArgumentError(f"`{option}` must be a finite number >= 0; got {value}; 0 turns the term off")
        self.name = name
        self.targets = targets
        self.l2_sp_weight = l2_sp_weight
        self.cross_frobenius_weight = cross_frobenius_weight
        self._anchors: dict[str, Tensor] = {}

    def start(self, model: nn.Module, total_steps: int) -> None:
        """Remember the pretrained weights if the penalty needs them."""
        self._model = model
        if self.l2_sp_weight > 0:
            self._anchors = {name: p.detach().clone() for name, p in self._penalised(model).items()}
        if self.cross_frobenius_weight > 0:
            projections(model)  # fails now rather than after the first batch

    @staticmethod
    def _penalised(model: nn.Module) -> dict[str, Tensor]:
        return {
            n: p
            for n, p in model.named_parameters()
            if p.requires_grad and not n.endswith(("logit_scale", "logit_bias"))
        }

    def references(self) -> Mapping[str, nn.Module]:
        """None: the loss reads the student alone."""
        return {}

    def objective(self, student: Embeddings, references: Mapping[str, Embeddings], batch: Batch) -> LossTerms:
        """InfoNCE of the batch."""
        loss = pair_loss(student, self.targets, batch.caption_ids)
        return LossTerms(loss, {"contrastive": loss.detach()})

    def penalty(self, model: nn.Module) -> LossTerms | None:
        """L2-SP and cross-Frobenius terms, those with a weight above 0."""
        terms: dict[str, tuple[float, Tensor]] = {}
        if self.l2_sp_weight > 0:
            terms["l2_sp"] = (self.l2_sp_weight, l2_sp(self._penalised(model), self._anchors))
        if self.cross_frobenius_weight > 0:
            terms["cross_frobenius"] = (self.cross_frobenius_weight, cross_frobenius(*projections(model)))
        if not terms:
            return None
        total = torch.stack([weight * value for weight, value in terms.values()]).sum()
        return LossTerms(total, {name: value.detach() for name, (_, value) in terms.items()})

    def after_step(self, model: nn.Module) -> None:
        """Nothing."""

    def models(self) -> Mapping[str, nn.Module]:
        """The student, adapters merged."""
        return {"student": without_lora(self._model)}

    def state_dict(self) -> dict[str, Any]:
        """The anchors, so that a resumed run never depends on the pretrained file still being there."""
        return {"anchors": dict(self._anchors)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the anchors back."""
        for name, value in state.get("anchors", {}).items():
            self._anchors[name].copy_(value)


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
        self._pretrained = copy.deepcopy(unadapted(model)).requires_grad_(False)

    def models(self) -> Mapping[str, nn.Module]:
        """The finetuned model and the interpolated one."""
        student = without_lora(self._model)
        merged = interpolate(self._pretrained, student, self.alpha)
        return {"student": student, f"student-wise-{self.alpha:.2f}": merged}

    def state_dict(self) -> dict[str, Any]:
        """The pretrained state."""
        return {"pretrained": dict(self._pretrained.state_dict())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the pretrained state back."""
        self._pretrained.load_state_dict(state["pretrained"])
