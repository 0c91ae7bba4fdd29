"""The shift study's start: the mini model's two projections aligned on emoji names and ImageNet classes.

Both towers stay as they were; features are computed once, so the 500 steps are those of a linear model.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from tracerft.errors import ArgumentError, DataError, ShapeError
from tracerft.losses.contrastive import contrastive_loss
from tracerft.models.encoder import LoadedModel
from tracerft.models.mini import MiniConfig, MiniDualEncoder, load_mini, text_features
from tracerft.models.mini_weights import imagenet_names, lite0_tensors
from tracerft.training.optim import learning_rate
from tracerft.types import Embeddings

STYLES = ("noto", "twemoji", "openmoji", "fluent-flat", "openmoji-line", "fluent-contrast")
MAX_LOG_SCALE = math.log(100.0)  # CLIP's clamp


@dataclass(frozen=True)
class EmojiFeatures:
    """What the frozen towers see in a folder of emoji.

    Args:
        codepoints: of the M emoji, in the order of ``captions.csv``.
        names: their captions, all different.
        images: of each style, ``(M, 1280)``.
        texts: ``(M, 384)``.
    """

    codepoints: tuple[str, ...]
    names: tuple[str, ...]
    images: dict[str, Tensor]
    texts: Tensor


def read_names(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Codepoints and English names from ``captions.csv``.

    Raises:
        DataError: if the file is missing or lacks a column.
    """
    try:
        with (folder / "captions.csv").open(newline="", encoding="utf-8") as file:
            rows = [(row["codepoint"], row["name"]) for row in csv.DictReader(file)]
    except (OSError, KeyError) as error:
        raise DataError(f"{folder / 'captions.csv'}: cannot be read ({error}); expected codepoint and name") from error
    if not rows:
        raise DataError(f"{folder / 'captions.csv'}: has no rows")
    return tuple(c for c, _ in rows), tuple(n for _, n in rows)


def read_images(folder: Path, codepoints: Sequence[str]) -> Tensor:
    """PNG files as the image tower wants them: ``(N, 3, 96, 96)`` in [-1, 1].

    Raises:
        DataError: if a file is missing or is no PNG.
    """
    pixels = []
    for codepoint in codepoints:
        path = folder / f"{codepoint}.png"
        try:
            with Image.open(path, formats=["PNG"]) as image:
                pixels.append(np.asarray(image.convert("RGB")))
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error}); restore the data folder") from error
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


@torch.no_grad()
def emoji_features(model: MiniDualEncoder, folder: Path, styles: Sequence[str] = STYLES) -> EmojiFeatures:
    """Features of every emoji in every style; about 10 s a thousand images on one busy core."""
    model.eval()
    codepoints, names = read_names(folder)
    images = {}
    for style in styles:
        chunks = [codepoints[i : i + 64] for i in range(0, len(codepoints), 64)]
        images[style] = torch.cat([model.visual.features(read_images(folder / style, chunk)) for chunk in chunks])
    return EmojiFeatures(codepoints, names, images, text_features(model, names))


def aligned_names(num_names: int, share: float = 0.8, *, seed: int = 0) -> Tensor:
    """Which names are aligned: ``(num_names,)`` bool, a fixed draw of the given share."""
    order = torch.randperm(num_names, generator=torch.Generator().manual_seed(seed))
    chosen = torch.zeros(num_names, dtype=torch.bool)
    chosen[order[: round(share * num_names)]] = True
    return chosen


def start_pairs(features: EmojiFeatures, chosen: Tensor, rows: Tensor, row_texts: Tensor) -> tuple[Tensor, ...]:
    """The pairs of the alignment: chosen emoji in every style, then each classifier row with its class name.

    Rows are scaled to the mean norm of the image features; only their direction means something here.

    Returns:
        Image features ``(P, 1280)``, text features ``(P, 384)``, caption ids ``(P,)``.
    """
    images = torch.cat([of_style[chosen] for of_style in features.images.values()])
    ids = chosen.nonzero().flatten().repeat(len(features.images))
    scaled = F.normalize(rows, dim=1) * images.norm(dim=1).mean()
    _, row_ids = torch.unique(row_texts, dim=0, return_inverse=True)  # two class names occur twice
    return (
        torch.cat([images, scaled]),
        torch.cat([features.texts[ids], row_texts]),
        torch.cat([ids, len(features.names) + row_ids]),
    )


def align(
    model: MiniDualEncoder,
    image_features: Tensor,
    text_features: Tensor,
    *,
    caption_ids: Tensor,
    embed_dim: int = 256,
    steps: int = 500,
    batch_size: int = 512,
    lr: float = 1e-3,
    seed: int = 0,
) -> MiniDualEncoder:
    """A mini model with the same towers and new projections, trained contrastively on paired features.

    Args:
        model: gives the towers; it is left as it is.
        image_features: ``(P, 1280)`` before the projection.
        text_features: ``(P, 384)``, each row the caption of the same row's image.
        caption_ids: ``(P,)``; pairs with equal ids are each other's positives.
        embed_dim: D.
        steps: of AdamW without decay; the rate falls as half a cosine.
        batch_size: pairs a step, cut to P.
        lr: highest rate.
        seed: keys initial projections and batches; equal seeds give equal models on one machine.

    Returns:
        The aligned model in evaluation mode, its logit scale learned.

    Raises:
        ShapeError: if the three inputs do not pair up.
        ArgumentError: if there are no steps or fewer than two pairs.
    """
    num_pairs = len(image_features)
    if len(text_features) != num_pairs or tuple(caption_ids.shape) != (num_pairs,):
        raise ShapeError(
            f"`image_features`, `text_features` and `caption_ids` must pair up; got {num_pairs}, {len(text_features)} "
            f"and {tuple(caption_ids.shape)} rows"
        )
    if steps < 1 or num_pairs < 2 or batch_size < 2:
        raise ArgumentError(
            f"`steps` must be >= 1, pairs and `batch_size` >= 2; got {steps}, {num_pairs}, {batch_size}"
        )
    aligned = _same_towers(model, embed_dim, seed)
    image_proj, text_proj, scale = aligned.visual.proj, aligned.text.proj, aligned.logit_scale
    optimizer = torch.optim.AdamW([image_proj, text_proj, scale], lr=lr, weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    batch_size = min(batch_size, num_pairs)
    for step in range(steps):
        if len(order) < batch_size:
            order = torch.randperm(num_pairs, generator=generator)
        rows, order = order[:batch_size], order[batch_size:]
        optimizer.param_groups[0]["lr"] = learning_rate(step, total_steps=steps, peak=lr, warmup_steps=0)
        images = F.normalize(image_features[rows] @ image_proj, dim=1)
        texts = F.normalize(text_features[rows] @ text_proj, dim=1)
        loss = contrastive_loss(Embeddings(images, texts, scale.exp()), "multi_positive", caption_ids[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            scale.clamp_(max=MAX_LOG_SCALE)
    return aligned.eval()


def _same_towers(model: MiniDualEncoder, embed_dim: int, seed: int) -> MiniDualEncoder:
    old = model.config
    config = MiniConfig(embed_dim, old.image_size, old.context, old.freeze_batchnorm)
    new = MiniDualEncoder(config, seed=seed)
    new.visual.trunk.load_state_dict(model.visual.trunk.state_dict())
    new.text.bert.load_state_dict(model.text.bert.state_dict())
    return new


@torch.no_grad()
def name_retrieval(model: MiniDualEncoder, features: EmojiFeatures) -> dict[str, Tensor]:
    """Of each style, which of the M images find their own name among all M: ``(M,)`` bool."""
    texts = F.normalize(features.texts @ model.text.proj, dim=1)
    answer = torch.arange(len(texts))
    found = {}
    for style, images in features.images.items():
        found[style] = (F.normalize(images @ model.visual.proj, dim=1) @ texts.T).argmax(1) == answer
    return found


@cache
def _towers(folder: Path) -> tuple[LoadedModel, EmojiFeatures]:
    """Pretrained towers and what they see; the same for every seed, so computed once a process."""
    loaded = load_mini("lite0-minilm@96")
    return loaded, emoji_features(_mini(loaded), folder)


def _mini(loaded: LoadedModel) -> MiniDualEncoder:
    if not isinstance(loaded.model, MiniDualEncoder):
        raise ArgumentError(f"the emoji start needs a mini model; got {type(loaded.model).__name__}")
    return loaded.model


def shift_start(folder: Path, *, steps: int = 500, seed: int = 0) -> tuple[LoadedModel, EmojiFeatures, Tensor]:
    """The study's pretrained model, from the packages and a folder of emoji.

    Returns:
        The aligned model, the features it was aligned on, and which names were aligned.
    """
    loaded, features = _towers(folder)
    model = _mini(loaded)
    chosen = aligned_names(len(features.names), seed=seed)
    rows = lite0_tensors()["classifier.weight"]
    images, texts, ids = start_pairs(features, chosen, rows, text_features(model, imagenet_names()))
    aligned = align(model, images, texts, caption_ids=ids, steps=steps, seed=seed)
    return LoadedModel(aligned, loaded.tokenize, f"shift start, seed {seed}", loaded.image), features, chosen
