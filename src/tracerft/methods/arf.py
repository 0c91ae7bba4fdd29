"""Anchor-based robust finetuning (ARF, Han et al., CVPR 2024): rich captions stay in play beside class prompts."""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from tracerft.errors import ArgumentError
from tracerft.losses import pair_loss
from tracerft.methods.base import Build, Ingredients, Method, MethodInfo
from tracerft.methods.contrastive import USES, Contrastive
from tracerft.methods.finetuning import Stepped
from tracerft.models.encoder import embed, embed_captions
from tracerft.models.modes import evaluating
from tracerft.types import Batch, Embeddings, LossTerms


class Anchors(Protocol):
    """Extra pairs for a batch, see `tracerft.data.anchors`."""

    @property
    def has_captions(self) -> bool:
        """Whether training images have captions of their own."""
        ...

    @property
    def has_pool(self) -> bool:
        """Whether there is a pool to search."""
        ...

    def search(self, embed: Callable[[Iterable[Tensor]], Tensor]) -> None:
        """Find the pairs of the pool that are most like each training image."""
        ...

    def captions(self, sample_ids: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Token ids and caption ids of each sample's own caption."""
        ...

    def retrieved(self, sample_ids: Tensor, step: int) -> Batch:
        """Pairs of the pool for the samples."""
        ...


class ARF(Stepped, Contrastive):
    """L = InfoNCE + captions InfoNCE(images, their captions) + retrieved InfoNCE(pairs of the pool).

    The paper's weights, neighbours and size of the retrieved batch are not known here; 1, 1, 5, and as many draws as
    the batch has samples are assumed.

    Args:
        name: ``arf``, which needs captions and a pool, or ``arf_lite``, which takes what there is.
        anchors: captions and pool.
        captions: weight >= 0 of the loss on captions.
        retrieved: weight >= 0 of the loss on retrieved pairs.
        targets, cross_frobenius_weight: as for `Contrastive`.

    Raises:
        ArgumentError: if captions or pool are missing.
    """

    def __init__(
        self,
        name: str,
        *,
        anchors: Anchors | None,
        captions: float = 1.0,
        retrieved: float = 1.0,
        targets: str = "diagonal",
        cross_frobenius_weight: float = 0.0,
    ) -> None:
        super().__init__(
            name,
            targets=targets,
            cross_frobenius_weight=cross_frobenius_weight,
            coefficients={"loss.arf_captions": captions, "loss.arf_retrieved": retrieved},
        )
        self._anchors_of_batch = anchors
        weights = {"arf_captions": captions, "arf_retrieved": retrieved}
        self._active = self._present({option: weight for option, weight in weights.items() if weight > 0})

    def _present(self, weights: Mapping[str, float]) -> dict[str, float]:
        """The terms whose data is there.

        Raises:
            ArgumentError: if one is missing of ``arf``, or all of ``arf_lite``.
        """
        anchors = self._anchors_of_batch
        there = {
            "arf_captions": anchors is not None and anchors.has_captions,
            "arf_retrieved": anchors is not None and anchors.has_pool,
        }
        missing = [name for name in weights if not there[name]]
        if missing and (self.name == "arf" or not any(there.values())):
            what = {"arf_captions": "captions beside the labels", "arf_retrieved": "a pool (--pool DATA)"}
            raise ArgumentError(
                f"`method` {self.name} needs {' and '.join(what[m] for m in missing)}; give it, or take arf_lite, "
                "which goes on with what there is"
            )
        return {name: weight for name, weight in weights.items() if there[name]}

    def start(self, model: nn.Module, total_steps: int) -> None:
        """Search the pool with the pretrained model."""
        super().start(model, total_steps)
        if "arf_retrieved" in self._active and self._anchors_of_batch is not None:
            self._anchors_of_batch.search(lambda batches: _embedded(model, batches))

    def objective(self, student: Embeddings, references: Mapping[str, Embeddings], batch: Batch) -> LossTerms:
        """InfoNCE on class prompts, on captions, on retrieved pairs."""
        terms = super().objective(student, references, batch)
        total, parts = terms.total, dict(terms.parts)
        for name, weight in self._active.items():
            value = self._captioned(student, batch) if name == "arf_captions" else self._retrieved(batch)
            total, parts[name] = total + weight * value, value.detach()
        return LossTerms(total, parts)

    def _captioned(self, student: Embeddings, batch: Batch) -> Tensor:
        assert self._anchors_of_batch is not None  # for the type checker; see start
        tokens, ids = self._anchors_of_batch.captions(batch.sample_ids, self._step)
        device = student.image.device
        text = embed_captions(self._model, tokens.to(device), ids.to(device))
        pairs = Embeddings(student.image, text, student.scale, student.bias)
        return pair_loss(pairs, self.targets, ids.to(device))

    def _retrieved(self, batch: Batch) -> Tensor:
        assert self._anchors_of_batch is not None
        found = self._anchors_of_batch.retrieved(batch.sample_ids, self._step).to(batch.caption_ids.device)
        return pair_loss(embed(self._model, found), self.targets, found.caption_ids)


@torch.no_grad()
def _embedded(model: nn.Module, batches: Iterable[Tensor]) -> Tensor:
    """Unit-norm embeddings of all images, on the CPU."""
    device = next(model.parameters()).device
    with evaluating(model):
        rows = [model.encode_image(images.to(device), normalize=True).float().cpu() for images in batches]  # type: ignore[operator]
    return torch.cat(rows)


def _build(name: str) -> Build:
    def build(i: Ingredients) -> Method:
        return ARF(
            name,
            anchors=i.anchors,
            captions=i.weights["arf_captions"],
            retrieved=i.weights["arf_retrieved"],
            targets=i.loss.targets,
            cross_frobenius_weight=i.weights["cross_frobenius"],
        )

    return build


_PAPER = "Han, Lin, Sun, Gao, Yan, Ding, Gao, Xia, CVPR 2024, arXiv 2404.06244"

ROWS = (
    MethodInfo(
        name="arf",
        family="contrastive",
        paper=_PAPER,
        year=2024,
        summary="Direct contrastive finetuning, and the same loss on captions and on pairs retrieved from a pool.",
        cost="3 (1 + tau) + 3 tau + 3 (1 + tau)",
        extra_data="captions of the images, and a pool of image-caption pairs",
        uses=(*USES, "loss.arf_captions", "loss.arf_retrieved", "pool"),
        build=_build("arf"),
    ),
    MethodInfo(
        name="arf_lite",
        family="contrastive",
        paper=_PAPER,
        year=2024,
        summary="ARF where captions or pool are missing; no number of it is ARF's.",
        cost="3 (1 + tau) + 3 tau with captions alone",
        extra_data="captions of the images, or a pool",
        uses=(*USES, "loss.arf_captions", "loss.arf_retrieved", "pool"),
        build=_build("arf_lite"),
    ),
)
