"""Distillation of pretrained logits into a finetuned classifier (Hinton et al. 2015; Li and Hoiem 2018)."""

from torch import Tensor

from tracerft.errors import ArgumentError
from tracerft.losses import logit_distillation
from tracerft.methods.base import Ingredients, Method, MethodInfo
from tracerft.methods.classifier import CrossEntropy, head_logits
from tracerft.types import Embeddings


class SDLogit(CrossEntropy):
    """L = CE + weight T^2 KL(softmax(z_0 / T) || softmax(z / T)), z_0 by the zero-shot classifier.

    Args:
        weight: of the divergence, >= 0.
        temperature: T > 0.
    """

    def __init__(self, weight: float = 1.0, temperature: float = 1.0) -> None:
        super().__init__("sd_logit", option="loss.logit_kd", weight=weight)
        if not temperature > 0:
            raise ArgumentError(f"`loss.temperature` must be above 0; got {temperature}; 1 is usual")
        self.temperature = temperature

    def distance(self, student: Embeddings, pretrained: Embeddings) -> Tensor:
        """The divergence from the pretrained model's predictions."""
        return logit_distillation(head_logits(student), head_logits(pretrained), self.temperature)


def _build(i: Ingredients) -> Method:
    return SDLogit(i.weights["logit_kd"], i.weights["temperature"])


ROWS = (
    MethodInfo(
        name="sd_logit",
        family="cross-entropy",
        paper="Hinton, Vinyals, Dean, 2015, arXiv 1503.02531; Li, Hoiem, TPAMI 2018, arXiv 1606.09282",
        year=2018,
        summary="Cross-entropy and distillation of the pretrained model's logits.",
        cost="4",
        uses=("loss.logit_kd", "loss.temperature"),
        strength="loss.logit_kd",
        copies=1,
        head=True,
        shards=True,
        build=_build,
    ),
)
