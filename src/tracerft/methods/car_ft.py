"""Context-aware robust finetuning (CAR-FT, Mao et al. 2024): keep what the pretrained model says of the context."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tracerft.errors import ArgumentError
from tracerft.losses import context_kl
from tracerft.methods.base import Ingredients, Method, MethodInfo, Tokenize
from tracerft.methods.classifier import CrossEntropy
from tracerft.models.contexts import context_rows
from tracerft.types import Embeddings


class CarFT(CrossEntropy):
    """L = CE + weight KL(q_0 || q), q the softmax over templates of s <image, A_k>, A_k a template's mean class.

    Args:
        weight: of the divergence, >= 0.
        tokenize: captions to token ids.
        prompts: of each class the same templates in the same order.
    """

    def __init__(self, weight: float, tokenize: Tokenize | None, prompts: Sequence[Sequence[str]]) -> None:
        super().__init__("car_ft", option="loss.context", weight=weight)
        self._tokenize, self._prompts = tokenize, prompts

    def start(self, model: nn.Module, total_steps: int) -> None:
        """Embed the contexts with the pretrained text tower; they never change.

        Raises:
            ArgumentError: without prompts.
        """
        super().start(model, total_steps)
        if self.weight > 0:
            if self._tokenize is None or not self._prompts:
                raise ArgumentError("`prompts` and `tokenize` must be given to car_ft; got none; give labelled data")
            self._contexts = context_rows(model, self._tokenize, self._prompts)
            self._scale = model.logit_scale.detach().exp()  # type: ignore[operator]

    def distance(self, student: Embeddings, pretrained: Embeddings) -> Tensor:
        """The divergence between distributions over contexts."""
        return context_kl(student.image, pretrained.image, self._contexts, self._scale, self._scale)

    def state_dict(self) -> dict[str, Any]:
        """The contexts too: they need not be the same to the bit when they are embedded again elsewhere."""
        kept = {"contexts": {"rows": self._contexts, "scale": self._scale}} if self.weight > 0 else {}
        return super().state_dict() | kept

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put all back."""
        super().load_state_dict(state)
        if self.weight > 0:
            self._contexts.copy_(state["contexts"]["rows"])
            self._scale.copy_(state["contexts"]["scale"])


def _build(i: Ingredients) -> Method:
    return CarFT(i.weights["context"], i.tokenize, i.prompts)


ROWS = (
    MethodInfo(
        name="car_ft",
        family="cross-entropy",
        paper="Mao, Chen, Jia, Zhang, Xue, Li, IJCV 2024, arXiv 2211.16175",
        year=2024,
        summary="Cross-entropy, and the pretrained distribution over templates (contexts) is kept.",
        cost="4",
        extra_data="several templates",
        uses=("loss.context",),
        strength="loss.context",
        copies=1,
        head=True,
        shards=True,
        build=_build,
    ),
)
