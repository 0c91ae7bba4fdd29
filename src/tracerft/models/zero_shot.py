"""Captions of classes to a classifier: the zero-shot head of CLIP (Radford et al. 2021, section 3.1)."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@torch.no_grad()
def zero_shot_head(
    model: nn.Module, tokenize: Callable[[Sequence[str]], Tensor], captions: Sequence[Sequence[str]]
) -> Tensor:
    """Class columns: embed each caption, normalise, average over a class, normalise again.

    Args:
        model: a dual encoder.
        tokenize: captions to token ids.
        captions: one or more captions for each of C classes.

    Returns:
        ``(C, D)`` unit-norm rows.
    """
    device = next(model.parameters()).device
    rows = []
    for of_class in captions:
        text = model.encode_text(tokenize(of_class).to(device), normalize=True)  # type: ignore[operator]
        rows.append(F.normalize(text.float().mean(0), dim=0))
    return torch.stack(rows)


@torch.no_grad()
def zero_shot_logits(model: nn.Module, images: Tensor, head: Tensor) -> Tensor:
    """``scale * image . class`` with the model's own scale, in float32: ``(N, C)``."""
    image = model.encode_image(images, normalize=True).float()  # type: ignore[operator]
    logits: Tensor = model.logit_scale.exp().float() * image @ head.T  # type: ignore[operator]
    bias = getattr(model, "logit_bias", None)
    return logits if bias is None else logits + bias.float()
