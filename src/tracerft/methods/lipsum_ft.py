"""Lipsum-FT (Nam, Heo, Lee, ICLR 2024): keep the energies of images with texts that mean nothing."""

import torch
from torch import Tensor, nn

from tracerft.errors import ArgumentError
from tracerft.losses import energy_gap
from tracerft.methods.base import Ingredients, Method, MethodInfo, Tokenize
from tracerft.methods.classifier import CrossEntropy
from tracerft.methods.finetuning import Stepped
from tracerft.models.random_texts import random_texts, vocabulary_size
from tracerft.types import Embeddings


class LipsumFT(Stepped, CrossEntropy):
    """L = CE + weight / (2 M N) sum (s <v, w_m> - s <v_0, w_m>)^2 over M random texts, new at every step.

    s and the text tower are the pretrained ones. The head is unit-norm at its start, without bias, s outside.

    Args:
        weight: of the gap, >= 0.
        tokenize: captions to token ids.
        seed: of the random texts, which have a generator of their own, so that the data order is every method's.
    """

    def __init__(self, weight: float, tokenize: Tokenize | None, seed: int = 0) -> None:
        super().__init__("lipsum_ft", option="loss.energy", weight=weight)
        self._tokenize, self._seed = tokenize, seed

    def start(self, model: nn.Module, total_steps: int) -> None:
        """Keep scale and size of the vocabulary.

        Raises:
            ArgumentError: without a tokenizer.
        """
        super().start(model, total_steps)
        if self.weight > 0:
            if self._tokenize is None:
                raise ArgumentError("`tokenize` must be given to lipsum_ft; got None")
            self._vocabulary = vocabulary_size(model)
            self._scale = model.logit_scale.detach().exp()  # type: ignore[operator]

    def distance(self, student: Embeddings, pretrained: Embeddings) -> Tensor:
        """The gap between energies on this step's texts."""
        return energy_gap(student.image, pretrained.image, self._texts(), self._scale)

    @torch.no_grad()
    def _texts(self) -> Tensor:
        """Unit-norm embeddings ``(M, D)`` by the pretrained text tower."""
        assert self._tokenize is not None
        assert self._pretrained is not None
        tokens = random_texts(self._tokenize, self._vocabulary, seed=self._seed, step=self._step)
        rows: Tensor = self._pretrained.encode_text(tokens.to(self._scale.device), normalize=True)  # type: ignore[operator]
        return rows


def _build(i: Ingredients) -> Method:
    return LipsumFT(i.weights["energy"], i.tokenize, i.seed)


ROWS = (
    MethodInfo(
        name="lipsum_ft",
        family="cross-entropy",
        paper="Nam, Heo, Lee, ICLR 2024, arXiv 2404.00860",
        year=2024,
        summary="Cross-entropy, and the energies of images with random texts are kept.",
        cost="4 + 80 tau / N",
        uses=("loss.energy",),
        strength="loss.energy",
        copies=1,
        head=True,
        folded=False,
        shards=True,
        build=_build,
    ),
)
