"""The toy study's dual encoder: a light ViT and a light character transformer (Section 5.1).

It has the surface of an open_clip model (`encode_image`, `encode_text`, `logit_scale`, a forward that
returns image, text and scale), so tests and studies exercise the code that real models run through.
Legend: N images, L tokens, P patches, W width, D embedding size.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracerft.errors import ArgumentError
from tracerft.models.encoder import TwoTowers

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789 .,'-"
PAD, END = 0, 1  # character ids start at 2


def tokenize(captions: Sequence[str], context: int = 24) -> Tensor:
    """Character ids, an end token, padding: ``(len(captions), context)`` int64.

    Raises:
        ArgumentError: if a caption is empty, too long, or has a character that the model never saw.
    """
    rows = torch.full((len(captions), context), PAD, dtype=torch.int64)
    for row, caption in zip(rows, captions, strict=True):
        text = caption.lower().strip()
        unknown = sorted(set(text) - set(ALPHABET))
        if not text or len(text) >= context or unknown:
            raise ArgumentError(
                f"caption {caption!r} does not fit the tiny model: expected 1 to {context - 1} characters of "
                f"{ALPHABET!r}" + (f"; unknown: {''.join(unknown)!r}" if unknown else "")
            )
        row[: len(text) + 1] = torch.tensor([ALPHABET.index(c) + 2 for c in text] + [END])
    return rows


@dataclass(frozen=True)
class TinyConfig:
    """Sizes of the toy model; the default has about 150 thousand image-tower parameters."""

    patch: int = 7
    width: int = 64
    layers: int = 4
    heads: int = 4
    text_layers: int = 2
    embed_dim: int = 128
    context: int = 24

    def __post_init__(self) -> None:
        if 28 % self.patch or self.width % self.heads:
            raise ArgumentError(
                f"`patch` must divide 28 and `heads` must divide `width`; got patch={self.patch}, "
                f"width={self.width}, heads={self.heads}"
            )


class Block(nn.Module):
    """Pre-norm transformer block with a twofold MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``(N, L, W)`` to the same; ``mask`` ``(N, 1, 1, L)`` is true where attention may look."""
        n, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], attn_mask=mask)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, length, width))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class LightViT(nn.Module):
    """Image tower: ``(N, 3, 28, 28)`` to ``(N, D)``."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        width, num_patches = config.width, (28 // config.patch) ** 2
        self.patches = nn.Conv2d(3, width, config.patch, stride=config.patch)
        self.class_token = nn.Parameter(torch.randn(width) * width**-0.5)
        self.positions = nn.Parameter(torch.randn(num_patches + 1, width) * width**-0.5)
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.randn(width, config.embed_dim) * width**-0.5)

    def forward(self, images: Tensor) -> Tensor:
        """Class token after the last block, projected."""
        x = self.patches(2.0 * images - 1.0).flatten(2).transpose(1, 2)  # (N, P, W)
        x = torch.cat([self.class_token.expand(x.shape[0], 1, -1), x], dim=1) + self.positions
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x[:, 0]) @ self.proj
        return out


class LightTextTransformer(nn.Module):
    """Text tower: ``(N, L)`` character ids to ``(N, D)``; mean over the characters, padding left out."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.characters = nn.Embedding(len(ALPHABET) + 2, config.width)
        self.positions = nn.Parameter(torch.randn(config.context, config.width) * 0.1)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.text_layers))
        self.norm = nn.LayerNorm(config.width)
        self.proj = nn.Parameter(torch.randn(config.width, config.embed_dim) * config.width**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Masked mean of the last layer, projected."""
        seen = tokens != PAD
        x = self.characters(tokens) + self.positions[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x, seen[:, None, None, :])
        pooled = (self.norm(x) * seen[..., None]).sum(1) / seen.sum(1, keepdim=True)
        out: Tensor = pooled @ self.proj
        return out


class TinyDualEncoder(TwoTowers):
    """Both towers and a learned temperature.

    Args:
        config: sizes.
        seed: keys the initial weights, so a seed is a model.
    """

    def __init__(self, config: TinyConfig | None = None, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config or TinyConfig()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.visual = LightViT(self.config)
            self.text = LightTextTransformer(self.config)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # CLIP's initial temperature

    def describe(self) -> dict[str, Any]:
        """What `weights.py` writes beside the weights to build the model again."""
        return {"family": "tiny", "model": asdict(self.config)}
