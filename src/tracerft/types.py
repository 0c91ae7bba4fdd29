"""The nouns that travel between layers: `Embeddings`, `Batch`, `LossTerms`.

Legend: N pairs in a batch, C captions, D embedding size. Imports `errors` only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from tracerft.errors import ArgumentError, ShapeError


@dataclass(frozen=True)
class Embeddings:
    """What a dual encoder says about a batch.

    Args:
        image: ``(N, D)``, unit-norm rows.
        text: ``(N, D)``, or ``(C, D)`` for class captions; unit-norm rows.
        scale: ``()`` or ``(1,)``, already exponentiated: 1 / temperature, about 100 for CLIP.
        bias: ``()``, ``(1,)`` or ``None``; added to the logits by sigmoid (SigLIP) models. Of a class head ``(C,)``.
        features: inner features a method asked for, by name.
        gathered: whether every rank of torch's process group holds these same numbers (see
            `tracerft.distributed.gather_rows`) and asks for the same loss of them, which may then be shared out.

    Raises:
        ShapeError: if image and text are not matrices of equal width.
    """

    image: Tensor
    text: Tensor
    scale: Tensor
    bias: Tensor | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)
    gathered: bool = False

    def __post_init__(self) -> None:
        if self.image.ndim != 2 or self.text.ndim != 2 or self.image.shape[1] != self.text.shape[1]:
            raise ShapeError(
                "`Embeddings` expects image (N, D) and text (N, D) of one width D; got image "
                f"{tuple(self.image.shape)} and text {tuple(self.text.shape)}; pool and project both towers first"
            )
        if self.scale.numel() != 1:
            raise ShapeError(f"`scale` must be one number; got shape {tuple(self.scale.shape)}; pass logit_scale.exp()")

    @classmethod
    def of(cls, output: "Embeddings | tuple[Tensor, ...] | list[Tensor] | Mapping[str, Any]") -> "Embeddings":
        """Read what a model returned: `Embeddings`, or open_clip's tuple or dict.

        Args:
            output: ``(image, text, scale[, bias])`` or a mapping with ``image_features``,
                ``text_features``, ``logit_scale`` and perhaps ``logit_bias``; scale exponentiated,
                as open_clip's ``forward`` returns it.

        Raises:
            ArgumentError: if the output is none of these.
        """
        if isinstance(output, cls):
            return output
        if isinstance(output, Mapping) and {"image_features", "text_features", "logit_scale"} <= set(output):
            return cls(
                output["image_features"], output["text_features"], output["logit_scale"], output.get("logit_bias")
            )
        if isinstance(output, (tuple, list)) and len(output) in (3, 4) and all(torch.is_tensor(o) for o in output):
            return cls(*output)
        raise ArgumentError(
            "cannot read embeddings from the model's output: expected Embeddings, open_clip's tuple (image, text, "
            f"scale) or its dict; got {type(output).__name__}; build tracerft.Embeddings(image, text, scale) yourself"
        )


@dataclass(frozen=True)
class Batch:
    """N image-text pairs, ready for a model.

    Args:
        images: ``(N, 3, H, W)`` float.
        tokens: ``(N, L)`` integer token ids of the captions.
        labels: ``(N,)`` class ids, or ``None`` where the data has none.
        caption_ids: ``(N,)``; equal ids mean equal captions (collisions in the batch).
        sample_ids: ``(N,)`` positions in the data set.
    """

    images: Tensor
    tokens: Tensor
    labels: Tensor | None
    caption_ids: Tensor
    sample_ids: Tensor

    def __len__(self) -> int:
        """Number of pairs N."""
        return len(self.images)

    def to(self, device: torch.device) -> "Batch":
        """The batch with all that a model reads on a device."""
        if device.type == "cpu":
            return self
        moved = {n: getattr(self, n).to(device, non_blocking=True) for n in ("images", "tokens", "caption_ids")}
        labels = None if self.labels is None else self.labels.to(device, non_blocking=True)
        return replace(self, **moved, labels=labels)


@dataclass(frozen=True)
class ImageSpec:
    """How a model wants its images: what data prepares and a model's source declares.

    Args:
        size: height and width in pixels.
        mean: of the three channels, in [0, 1].
        std: of the three channels.
        interpolation: ``bicubic`` or ``bilinear``.
        resize: ``shortest`` scales the shorter side and crops the middle, ``squash`` scales both sides.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    resize: str = "shortest"


@dataclass(frozen=True)
class LossTerms:
    """A scalar to differentiate and its parts to log.

    Args:
        total: ``()``; the weighted sum, with gradient.
        parts: each term before its weight, detached.
    """

    total: Tensor
    parts: Mapping[str, Tensor]
