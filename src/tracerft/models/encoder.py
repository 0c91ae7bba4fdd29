"""What the rest of the package asks of a dual encoder, and how a batch is embedded with one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from tracerft.errors import ArgumentError
from tracerft.types import Batch, Embeddings


@runtime_checkable
class DualEncoder(Protocol):
    """The surface of an open_clip model; a wrapped teacher has it too.

    ``logit_scale`` is the logarithm of the scale; ``logit_bias``, if present and not ``None``, is
    added to the logits.
    """

    logit_scale: Tensor

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """``(N, 3, H, W)`` to ``(N, D)``."""
        ...

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """``(N, L)`` to ``(N, D)``."""
        ...


@dataclass(frozen=True)
class LoadedModel:
    """A model with what belongs to it.

    Args:
        model: the dual encoder.
        tokenize: captions to token ids.
        source: what it was loaded from, for the record.
    """

    model: nn.Module
    tokenize: Callable[[Sequence[str]], Tensor]
    source: str


def embed(model: nn.Module, batch: Batch) -> Embeddings:
    """Embed a batch; captions that occur more than once are encoded once.

    Returns:
        Unit-norm `Embeddings` with image and text ``(N, D)``.
    """
    _, first, inverse = _distinct(batch.caption_ids)
    text = model.encode_text(batch.tokens[first], normalize=True)  # type: ignore[operator]
    image = model.encode_image(batch.images, normalize=True)  # type: ignore[operator]
    bias = getattr(model, "logit_bias", None)
    return Embeddings(image, text[inverse], model.logit_scale.exp(), bias)  # type: ignore[operator]


def _distinct(ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct values, the position of the first of each, and each row's place among them."""
    values, inverse = torch.unique(ids, return_inverse=True)
    first = torch.full_like(values, len(ids)).scatter_reduce_(
        0, inverse, torch.arange(len(ids), device=ids.device), reduce="amin"
    )
    return values, first, inverse


def freeze(model: nn.Module, what: str) -> None:
    """Stop gradients of one tower (with the logit scale) in place.

    Args:
        model: a dual encoder with its image tower under ``visual``, as open_clip names it.
        what: ``none``; ``text`` freezes all but the image tower; ``image`` freezes the image tower.

    Raises:
        ArgumentError: if the model has no ``visual`` tower.
    """
    if what == "none":
        return
    if not isinstance(getattr(model, "visual", None), nn.Module):
        raise ArgumentError(f"`freeze`={what!r} needs a model with an image tower `visual`; got {type(model).__name__}")
    for name, parameter in model.named_parameters():
        if name.startswith("visual.") == (what == "image"):
            parameter.requires_grad_(False)


def projections(model: nn.Module) -> tuple[Tensor, Tensor]:
    """The two projection matrices ``(width, D)`` for the cross-Frobenius term.

    Raises:
        ArgumentError: if the model does not end in two plain matrices.
    """
    image = getattr(getattr(model, "visual", None), "proj", None)
    text = getattr(model, "text_projection", None)
    if text is None:
        text = getattr(getattr(model, "text", None), "proj", None)
    if not isinstance(image, Tensor) or not isinstance(text, Tensor):
        raise ArgumentError(
            "`loss.cross_frobenius` needs a model whose towers end in projection matrices (visual.proj and "
            f"text_projection); {type(model).__name__} has none; set it to 0"
        )
    return image, text
