"""Fast trainable projection (FTP, Tian et al., NeurIPS 2023): every step ends near the pretrained weights."""

from typing import Any

from torch import Tensor, nn

from tracerft.averaging import FTP
from tracerft.methods.base import Ingredients, Method, MethodInfo
from tracerft.methods.classifier import CrossEntropy
from tracerft.methods.finetuning import OUTSIDE
from tracerft.types import LossTerms


class FTPFinetuning(CrossEntropy):
    """Cross-entropy, and after each step every row of weights is projected to a radius that learns from gradients.

    Of adapters the second factor is projected, which is 0 at the start: its rows scale those of the product.

    Args:
        kappa: in [0, 1], how much of a gradient that tightens the radius counts; 1 holds most, 0 never shrinks it.
    """

    def __init__(self, kappa: float = 1.0) -> None:
        super().__init__("ftp")
        self._kappa = kappa

    def start(self, model: nn.Module, total_steps: int) -> None:
        """Keep the pretrained weights."""
        super().start(model, total_steps)
        moved = self._projected(model)
        self._ftp = FTP(moved, moved, kappa=self._kappa) if moved else None  # none where only the head trains

    @staticmethod
    def _projected(model: nn.Module) -> dict[str, Tensor]:
        every = {n: p for n, p in model.named_parameters() if p.requires_grad}
        return {n: p for n, p in every.items() if n not in OUTSIDE and ".lora_A" not in n}

    def penalty(self, model: nn.Module) -> LossTerms | None:
        """Let the radii learn from the gradients, which are known here and gone after the step."""
        if self._ftp is not None:
            self._ftp.observe({n: p.grad for n, p in self._projected(model).items() if p.grad is not None})
        return super().penalty(model)

    def after_step(self, model: nn.Module) -> None:
        """Project."""
        if self._ftp is not None:
            self._ftp.project_()

    def state_dict(self) -> dict[str, Any]:
        """Radii, their moments, the last directions, the pretrained weights."""
        return super().state_dict() | ({} if self._ftp is None else {"ftp": self._ftp.state_dict()})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put all back."""
        super().load_state_dict(state)
        if self._ftp is not None:
            self._ftp.load_state_dict(state["ftp"])


def _build(i: Ingredients) -> Method:
    return FTPFinetuning(i.weights["ftp_kappa"])


ROWS = (
    MethodInfo(
        name="ftp",
        family="weight space",
        paper="Tian, Liu, Smith, Kira, NeurIPS 2023, arXiv 2310.19182",
        year=2023,
        summary="Cross-entropy finetuning; every step is projected near the pretrained weights, radii learned.",
        cost="3",
        uses=("loss.ftp_kappa",),
        copies=1,
        head=True,
        build=_build,
    ),
)
