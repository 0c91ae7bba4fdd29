"""What the rest of the package asks of a dual encoder, and how a batch is embedded with one."""

import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracerft.errors import ArgumentError, MissingExtraError, one_of
from tracerft.types import Batch, Embeddings, ImageSpec

IMAGE_PREFIXES = ("visual.", "model.vision_model.", "model.visual_projection.")  # open_clip and tiny; transformers

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model", "vocab.txt")


class DualEncoder(Protocol):
    """The surface of an open_clip model; a wrapped teacher has it too.

    ``logit_scale`` is the logarithm of the scale; ``logit_bias``, if present and not ``None``, is
    added to the logits. A model whose text tower takes short token batches says in ``text_end`` where a
    caption ends (see `text_lengths`); one whose image tower lies elsewhere than `IMAGE_PREFIXES` says so in
    ``image_prefixes``.
    """

    logit_scale: Tensor

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """``(N, 3, H, W)`` to ``(N, D)``."""
        ...

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """``(N, L)`` to ``(N, D)``."""
        ...


class TwoTowers(nn.Module):
    """That surface over two towers ``visual`` and ``text`` that end in their projections."""

    visual: Any  # each model's own tower, with what only it has
    text: Any
    logit_scale: nn.Parameter

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """``(N, D)`` image embeddings, unit-norm on request."""
        features: Tensor = self.visual(image)
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """``(N, D)`` text embeddings, unit-norm on request."""
        features: Tensor = self.text(text)
        return F.normalize(features, dim=-1) if normalize else features

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit-norm image and text embeddings and the exponentiated scale, as open_clip returns them."""
        return self.encode_image(image, True), self.encode_text(text, True), self.logit_scale.exp()


def check_tokenizer_files(folder: Path) -> None:
    """Raise `ArgumentError` unless a folder holds a tokenizer: transformers 5 makes up an empty one without a word."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ArgumentError(f"`model`: {folder} has no tokenizer; put tokenizer.json there")


class LazyTokenizer:
    """A tokenizer that is built at its first use: a model loads without what only its captions need.

    One thread at a time: the next batch is made while a guard may read captions, and fast tokenizers refuse two.

    Args:
        build: makes a callable from a list of captions to ``(N, L)`` token ids.
    """

    def __init__(self, build: Callable[[], Any]) -> None:
        self._build = build
        self._lock = threading.Lock()

    @cached_property
    def inner(self) -> Any:
        """The tokenizer itself."""
        return self._build()

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Token ids ``(len(captions), L)``."""
        with self._lock:
            tokens: Tensor = self.inner(list(captions))
        return tokens

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files; warns, since weights may not be lost to it, where there is no tokenizer."""
        try:
            self.inner.save_pretrained(str(folder))
        except (ArgumentError, MissingExtraError) as error:
            warnings.warn(f"{folder}: written without a tokenizer: {error}", UserWarning, stacklevel=2)


@dataclass(frozen=True)
class Origin:
    """What a model was built from; kept on it as ``origin``, copies included, so that it can be written again.

    Args:
        family: ``open_clip`` or ``hf``.
        config: of open_clip, ``{"model_cfg": ..., "preprocess_cfg": ...}``.
        tokenize: the model's tokenizer.
        processor: of transformers, the image processor.
    """

    family: str
    config: dict[str, Any] = field(default_factory=dict)
    tokenize: LazyTokenizer | None = None
    processor: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # shared by the copies of a model: nothing here changes


@dataclass(frozen=True)
class LoadedModel:
    """A model with what belongs to it.

    Args:
        model: the dual encoder.
        tokenize: captions to token ids.
        source: what it was loaded from, for the record.
        image: how it wants its images; ``None`` where the data itself decides.
    """

    model: nn.Module
    tokenize: Callable[[Sequence[str]], Tensor]
    source: str
    image: ImageSpec | None = None


def embed(model: nn.Module, batch: Batch) -> Embeddings:
    """Embed a batch; captions that occur more than once are encoded once, and padding is cut where that is exact.

    Returns:
        Unit-norm `Embeddings` with image and text ``(N, D)``. Of a model with a class head, ``text`` are the head's
        rows ``(C, D)``, with its scale and its bias ``(C,)``, and no caption is encoded.
    """
    head = getattr(model, "class_head", None)
    if head is not None:
        image = model.encode_image(batch.images, normalize=True)  # type: ignore[operator]
        return Embeddings(image, head.weight, head.scale, head.bias)
    text = embed_captions(model, batch.tokens, batch.caption_ids)
    image = model.encode_image(batch.images, normalize=True)  # type: ignore[operator]
    bias = getattr(model, "logit_bias", None)
    return Embeddings(image, text, model.logit_scale.exp(), bias)  # type: ignore[operator]


def embed_captions(model: nn.Module, tokens: Tensor, caption_ids: Tensor) -> Tensor:
    """Unit-norm ``(N, D)`` embeddings of ``(N, L)`` tokens; rows with equal ids are encoded once."""
    _, first, inverse = _distinct(caption_ids)
    text: Tensor = model.encode_text(trim(model, tokens[first]), normalize=True)  # type: ignore[operator]
    return text[inverse]


def text_lengths(model: nn.Module, tokens: Tensor) -> Tensor:
    """How many leading tokens of each caption its embedding depends on: ``(N,)`` in [1, L].

    Fewer than all only where the model has a ``text_end``: its text tower is causal and pooled at the end of the
    text, so nothing behind that place is seen. ``"argmax"`` is the place of the highest id, a number that of the
    first token with this id. SigLIP attends to its padding and has no ``text_end``.
    """
    end = getattr(model, "text_end", None)
    end = getattr(getattr(model, "averaged", None), "text_end", None) if end is None else end  # of a teacher
    if end is None:
        return torch.full((len(tokens),), tokens.shape[1], device=tokens.device)
    return (tokens if end == "argmax" else (tokens == end).int()).argmax(dim=-1) + 1


def trim(model: nn.Module, tokens: Tensor) -> Tensor:
    """Cut ``(N, L)`` tokens behind the last end of text in the batch, where the embeddings stay the same."""
    return tokens[:, : int(text_lengths(model, tokens).max())] if len(tokens) else tokens


def _distinct(ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct values, the position of the first of each, and each row's place among them."""
    values, inverse = torch.unique(ids, return_inverse=True)
    first = torch.full_like(values, len(ids)).scatter_reduce_(
        0, inverse, torch.arange(len(ids), device=ids.device), reduce="amin"
    )
    return values, first, inverse


def in_image_tower(model: nn.Module) -> Callable[[str], bool]:
    """A test of parameter and module names: does this belong to the image tower (its projection included)?

    Raises:
        ArgumentError: if the model has no image tower under a known name.
    """
    prefixes: tuple[str, ...] = getattr(model, "image_prefixes", IMAGE_PREFIXES)
    if not any(name.startswith(prefixes) for name, _ in model.named_parameters()):
        raise ArgumentError(
            f"a model with an image tower `visual` is needed to tell the towers apart; got {type(model).__name__}; "
            "set its attribute `image_prefixes`, for example ('image_tower.',)"
        )
    return lambda name: f"{name}.".startswith(prefixes)


def freeze(model: nn.Module, what: str) -> None:
    """Stop gradients of one tower in place; BatchNorm in a frozen tower also keeps its statistics.

    Args:
        model: a dual encoder of any family.
        what: ``none``; ``text`` freezes all but the image tower, so logit scale and bias too; ``image`` freezes
            the image tower.

    Raises:
        ArgumentError: if ``what`` is unknown, or the model has no image tower under a known name.
    """
    one_of("freeze", what, ("none", "text", "image"))
    if what == "none":
        return
    of_image = in_image_tower(model)
    for name, parameter in model.named_parameters():
        if of_image(name) == (what == "image"):
            parameter.requires_grad_(False)
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and of_image(name) == (what == "image"):
            module.register_forward_pre_hook(_stay_in_eval)


def _stay_in_eval(module: nn.Module, _inputs: Any) -> None:
    module.training = False


def projections(model: nn.Module) -> tuple[Tensor, Tensor]:
    """The two projection matrices ``(width, D)`` for the cross-Frobenius term.

    Raises:
        ArgumentError: if the model does not end in two plain matrices.
    """
    image = _first_matrix(model, "visual.proj", "visual.attnpool.c_proj", "visual.head.proj", "model.visual_projection")
    text = _first_matrix(model, "text_projection", "text.proj", "text.text_projection", "model.text_projection")
    if image is None or text is None:
        raise ArgumentError(
            "`loss.cross_frobenius` needs a model whose towers end in projection matrices (visual.proj and "
            f"text_projection); {type(model).__name__} has none; set it to 0"
        )
    return image, text


def _first_matrix(model: nn.Module, *paths: str) -> Tensor | None:
    """The first of these attributes that is a matrix, or a linear layer's weight transposed to ``(in, out)``."""
    for path in paths:
        found: Any = model
        for part in path.split("."):
            found = getattr(found, part, None)
        if isinstance(found, nn.Linear):
            return found.weight.T
        if isinstance(found, Tensor):
            return found
    return None
