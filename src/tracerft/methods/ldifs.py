"""LDIFS (Mukhoti, Gal, Torr, Dokania, TMLR 2024): stay near the pretrained model in the space of inner features."""

from torch import Tensor, nn

from tracerft.losses import feature_distance
from tracerft.methods.base import Ingredients, Method, MethodInfo
from tracerft.methods.classifier import CrossEntropy
from tracerft.models.features import feature_layers
from tracerft.types import Embeddings

BLOCKS = 6  # evenly spaced; every second of ViT-B/16's twelve


class LDIFS(CrossEntropy):
    """L = CE + weight times the mean squared distance of unit-norm features of evenly spaced blocks and the embedding.

    Args:
        weight: of the distance, >= 0.
    """

    def __init__(self, weight: float = 10.0) -> None:
        super().__init__("ldifs", option="loss.ldifs", weight=weight)
        self.layers: tuple[str, ...] = ()

    def start(self, model: nn.Module, total_steps: int) -> None:
        """Choose the layers whose outputs the trainer hands over in ``Embeddings.features``."""
        super().start(model, total_steps)
        self.layers = feature_layers(model, BLOCKS) if self.weight > 0 else ()

    def distance(self, student: Embeddings, pretrained: Embeddings) -> Tensor:
        """The distance of features and embedding."""
        mine, theirs = ({**e.features, "embedding": e.image} for e in (student, pretrained))
        return feature_distance(mine, theirs)


def _build(i: Ingredients) -> Method:
    return LDIFS(i.weights["ldifs"])


ROWS = (
    MethodInfo(
        name="ldifs",
        family="cross-entropy",
        paper="Mukhoti, Gal, Torr, Dokania, TMLR 2024, arXiv 2308.13320",
        year=2024,
        summary="Cross-entropy, and inner features of the image tower stay near the pretrained ones.",
        cost="4",
        uses=("loss.ldifs",),
        strength="loss.ldifs",
        copies=1,
        head=True,
        shards=True,
        build=_build,
    ),
)
