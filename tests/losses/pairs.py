"""Seeded embeddings for the tests of the losses."""

import torch
from torch.nn.functional import normalize

from tracerft.types import Embeddings

LABELS = torch.tensor([0, 1, 0, 2, 1])


def random_pairs(
    seed: int, *, num: int = 5, width: int = 7, scale: float = 4.0, bias: float | None = None, dtype=torch.float64
) -> Embeddings:
    """``num`` random unit-norm pairs that require gradients, as scale and bias do."""
    generator = torch.Generator().manual_seed(seed)
    rows = [normalize(torch.randn(num, width, generator=generator, dtype=torch.float64), dim=1) for _ in range(2)]
    image, text = (r.to(dtype).requires_grad_() for r in rows)
    offset = None if bias is None else torch.tensor(bias, dtype=dtype, requires_grad=True)
    return Embeddings(image, text, torch.tensor(scale, dtype=dtype, requires_grad=True), offset)


def as_lists(pairs: Embeddings) -> tuple[list[list[float]], list[list[float]], float]:
    """Image, text and scale as plain numbers."""
    return pairs.image.tolist(), pairs.text.tolist(), pairs.scale.item()


def permuted(pairs: Embeddings, order: torch.Tensor) -> Embeddings:
    """The same pairs in another order."""
    return Embeddings(pairs.image[order], pairs.text[order], pairs.scale, pairs.bias)


def numbers(pairs: Embeddings) -> tuple[list[list[float]], list[list[float]], float, float]:
    """Image, text, scale and bias as plain numbers."""
    return *as_lists(pairs), pairs.bias.item()


def tensors(pairs: Embeddings) -> tuple[torch.Tensor, ...]:
    """Image, text, scale and bias: all that can get a gradient."""
    return pairs.image, pairs.text, pairs.scale, pairs.bias
