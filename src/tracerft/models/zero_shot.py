"""Captions of classes to a classifier: the zero-shot head of CLIP (Radford et al. 2021, section 3.1)."""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracerft.errors import ArgumentError
from tracerft.models.encoder import text_lengths, trim
from tracerft.models.modes import evaluating
from tracerft.models.prefixes import share_prefixes

CHUNK = 256  # captions encoded at once


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
        ``(C, D)`` unit-norm rows, float32.

    Raises:
        ArgumentError: if there is no class, or one without a caption.
    """
    bare = [number for number, of_class in enumerate(captions) if not of_class]
    if bare or not captions:
        raise ArgumentError(f"`captions` needs a caption for every class; got none for {bare[:5] or 'any class'}")
    distinct = list(dict.fromkeys(caption for of_class in captions for caption in of_class))
    embedded = encode_captions(model, tokenize, distinct)
    place = {caption: number for number, caption in enumerate(distinct)}
    rows = [embedded[[place[caption] for caption in of_class]].mean(0) for of_class in captions]
    return F.normalize(torch.stack(rows), dim=1)


@torch.no_grad()
def encode_captions(
    model: nn.Module, tokenize: Callable[[Sequence[str]], Tensor], captions: Sequence[str], *, chunk: int = CHUNK
) -> Tensor:
    """Unit-norm float32 embeddings ``(len(captions), D)``.

    Prefixes that captions share are computed once where the text tower allows it; else captions go in chunks of similar
    length, so that each is trimmed well.
    """
    device = next(model.parameters()).device
    tokens = tokenize(captions)
    lengths = text_lengths(model, tokens)
    order, parts = share_prefixes(model, tokens, lengths) or _trimmed(model, tokens, lengths, chunk)
    rows: list[Tensor] = []
    with evaluating(model), torch.autocast(device.type, enabled=False):
        for part in parts:
            text = model.encode_text(part.to(device), normalize=False)  # type: ignore[operator]
            rows.append(F.normalize(text.float(), dim=-1))
    return torch.cat(rows)[order.argsort().to(device)]


def _trimmed(model: nn.Module, tokens: Tensor, lengths: Tensor, chunk: int) -> tuple[Tensor, Iterator[Tensor]]:
    order = lengths.argsort(stable=True)
    return order, (trim(model, tokens[part]) for part in torch.split(order, chunk))


@torch.no_grad()
def zero_shot_logits(model: nn.Module, images: Tensor, head: Tensor) -> Tensor:
    """``scale * image . class`` with the model's own scale and bias, in float32: ``(N, C)``."""
    image = F.normalize(model.encode_image(images, normalize=False).float(), dim=-1)  # type: ignore[operator]
    return similarity_logits(model, image, head)


@torch.no_grad()
def similarity_logits(model: nn.Module, image: Tensor, head: Tensor) -> Tensor:
    """The same from unit-norm image embeddings ``(N, D)``."""
    logits: Tensor = model.logit_scale.exp().float() * image @ head.T  # type: ignore[operator]
    bias = getattr(model, "logit_bias", None)
    return logits if bias is None else logits + bias.float()
