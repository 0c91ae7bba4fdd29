"""Models of open_clip: by architecture and weights, or from a folder in its local-dir schema.

They have the surface of `DualEncoder` already. Two of their classes are exchanged for ones that also take token
batches shorter than the context, so that captions need not be padded to 77, and captions packed by their prefixes.
"""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.transformer import TextTransformer, text_global_pool
from torch import Tensor, nn

from tracerft.errors import ArgumentError, DataError, MissingExtraError, did_you_mean
from tracerft.models.encoder import LazyTokenizer, LoadedModel, Origin, check_tokenizer_files
from tracerft.models.prefixes import Packed
from tracerft.models.quiet import quiet
from tracerft.types import ImageSpec

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
LOCAL, HUB = "local-dir:", "hf-hub:"
OFFLINE = f"without a network, put {CONFIG} and {WEIGHTS} into a folder and pass open_clip:{LOCAL}FOLDER"


class ShortTextCLIP(open_clip.CLIP):  # type: ignore[misc]
    """`open_clip.CLIP` whose text tower takes any length up to its context; the same numbers at full length."""

    takes_packed = True

    def encode_text(self, text: Tensor | Packed, normalize: bool = False) -> Tensor:
        """``(N, L)`` token ids to ``(N, D)``, unit-norm on request."""
        x = _encode_packed(self, text) if isinstance(text, Packed) else self._encode_short(text)
        return F.normalize(x, dim=-1) if normalize else x

    def _encode_short(self, text: Tensor) -> Tensor:
        length, dtype = text.shape[1], self.transformer.get_cast_dtype()
        x = self.token_embedding(text).to(dtype) + self.positional_embedding[:length].to(dtype)
        mask = None if self.attn_mask is None else self.attn_mask[:length, :length]
        x = self.ln_final(self.transformer(x, attn_mask=mask))
        return _project(self, text_global_pool(x, text, self.text_pool_type, eos_token_id=self.text_eos_id))


class ShortTextTransformer(TextTransformer):  # type: ignore[misc]
    """open_clip's text tower of custom-text models, likewise."""

    takes_packed = True

    def forward(self, text: Tensor | Packed) -> Any:
        """``(N, L)`` token ids to ``(N, D)``."""
        return _encode_packed(self, text) if isinstance(text, Packed) else super().forward(text)

    def _embeds(self, text: Tensor) -> tuple[Tensor, Tensor | None]:
        x, mask = super()._embeds(text)
        return x, mask[: x.shape[1], : x.shape[1]] if mask is not None and mask.ndim == 2 else mask


def _encode_packed(tower: Any, text: Packed) -> Tensor:
    """``(N, D)`` of N captions, by the tower's own modules, from the nodes at which they end."""
    dtype = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(text.tokens).to(dtype) + tower.positional_embedding[text.positions].to(dtype)
    mask = torch.zeros(text.seen.shape, dtype=dtype, device=x.device).masked_fill_(~text.seen, -torch.inf)
    heads = tower.transformer.resblocks[0].attn.num_heads
    x = tower.transformer(x, attn_mask=mask.repeat_interleave(heads, 0))
    return _project(tower, tower.ln_final(x[text.sequences, text.ends]))


def _project(tower: Any, x: Tensor) -> Tensor:
    if tower.text_projection is None:
        return x
    projected: Tensor = (
        tower.text_projection(x) if isinstance(tower.text_projection, nn.Linear) else x @ tower.text_projection
    )
    return projected


def accept_short_text(model: Any) -> nn.Module:
    """Let a model made by open_clip take trimmed tokens, in place; `trim` then knows where its captions end.

    Only causal text towers pooled at the end of the text change; others are returned as they are.
    """
    built: nn.Module = model
    if type(model) is open_clip.CLIP:
        tower, short = model, ShortTextCLIP
        mask, pool, end = model.attn_mask, model.text_pool_type, model.text_eos_id
    elif type(getattr(model, "text", None)) is TextTransformer and model.text.cls_emb is None:
        tower, short = model.text, ShortTextTransformer
        mask, pool, end = tower.attn_mask, tower.pool_type, tower.eos_id
    else:
        return built
    if mask is not None and pool in ("argmax", "eos"):
        tower.__class__ = short
        model.text_end = "argmax" if pool == "argmax" else end
    return built


def load_open_clip(name: str, *, seed: int = 0) -> LoadedModel:
    """Load a model of open_clip with its tokenizer.

    Args:
        name: ``ARCH/PRETRAINED`` (a tag of open_clip or a weight file), ``ARCH`` for random weights,
            ``local-dir:FOLDER`` or ``hf-hub:OWNER/NAME``.
        seed: keys random weights.

    Raises:
        ArgumentError: if the architecture or weights are unknown, do not fit each other or cannot be fetched.
        DataError: if a folder is damaged.
    """
    if name.startswith(LOCAL):
        _check_folder(Path(name.removeprefix(LOCAL)))
        architecture, weights = name, ""
    elif name.startswith(HUB):
        architecture, weights = name, ""
    else:
        architecture, _, weights = name.partition("/")
        weights = "" if weights == "none" else weights
        check_architecture(architecture)
        _check_weights(architecture, weights)
    model = _create(architecture, weights, seed)
    model.origin = origin_of(model, architecture)
    tokenize = model.origin.tokenize
    return LoadedModel(accept_short_text(model), tokenize, f"open_clip:{name}", image_spec(model.visual.preprocess_cfg))


def origin_of(model: Any, architecture: str) -> Origin:
    """What `save_model` needs to know of a model that open_clip built as ``architecture``."""
    if not architecture.startswith((LOCAL, HUB)):
        check_architecture(architecture)
    config = {
        "model_cfg": open_clip.get_model_config(architecture),
        "preprocess_cfg": dict(model.visual.preprocess_cfg),
    }
    return Origin("open_clip", config, LazyTokenizer(lambda: _tokenizer(architecture)))


def check_architecture(architecture: str) -> None:
    """Raise `ArgumentError` with the nearest name unless open_clip knows the architecture."""
    known = open_clip.list_models()
    if architecture not in known:
        raise ArgumentError(
            f"`model`: open_clip has no architecture {architecture!r}{did_you_mean(architecture, known)}; "
            "open_clip.list_models() names all"
        )


def _check_weights(architecture: str, weights: str) -> None:
    if not weights:
        return
    if Path(weights).is_file():
        if Path(weights).suffix != ".safetensors":
            raise ArgumentError(
                f"`model`: {weights} is not a safetensors file; turn it into one with tracerft.models.import_pt, which "
                "runs nothing that is in it"
            )
        return
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    tag = open_clip.get_pretrained_cfg(architecture, weights)
    if not tag:
        raise ArgumentError(
            f"`model`: {architecture} has no weights {weights!r}{did_you_mean(weights, tags)}; expected one of "
            f"{', '.join(tags) or 'none at all'}, a file, or nothing for random weights"
        )
    quick = bool(tag.get("quick_gelu", False))
    right = f"{architecture}-quickgelu" if quick else architecture.removesuffix("-quickgelu")
    built = bool(open_clip.get_model_config(architecture).get("quick_gelu", False))
    if quick != built and open_clip.get_pretrained_cfg(right, weights) and right != architecture:
        raise ArgumentError(
            f"`model`: the weights {weights!r} were trained {'with' if quick else 'without'} QuickGELU, which "
            f"{architecture} does {'not have' if quick else 'have'}; use open_clip:{right}/{weights}"
        )


def _check_folder(folder: Path) -> None:
    if not (folder / CONFIG).is_file():
        raise ArgumentError(f"`model`: {folder} is not a folder with {CONFIG}; expected open_clip's local-dir schema")
    try:
        config = json.loads((folder / CONFIG).read_text())["model_cfg"]
        if not {"embed_dim", "vision_cfg", "text_cfg"} <= set(config):
            raise KeyError("embed_dim, vision_cfg or text_cfg")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / CONFIG}: not a model description of open_clip ({error})") from error
    if not any(folder.glob("*.safetensors")):  # open_clip would take a pickle, or random weights
        raise DataError(f"{folder}: no weights there; expected {WEIGHTS}")


def _create(architecture: str, weights: str, seed: int) -> Any:
    schema = architecture.startswith((LOCAL, HUB))
    try:
        with torch.random.fork_rng(devices=[]), quiet():
            torch.manual_seed(seed)
            return open_clip.create_model(
                architecture, weights or None, pretrained_text=False, require_pretrained=bool(weights) or schema
            ).eval()
    except Exception as error:  # whatever the hub, timm, safetensors or torch raise while files are read
        reason = " ".join(str(error).split())[:300]
        if architecture.startswith(LOCAL):
            raise DataError(f"{architecture.removeprefix(LOCAL)}: cannot be loaded ({reason})") from error
        label = f"open_clip:{architecture}{'/' if weights else ''}{weights}"
        raise ArgumentError(f"`model` {label} cannot be loaded ({reason}); {OFFLINE}") from error


def _tokenizer(architecture: str) -> Any:
    try:
        if architecture.startswith(LOCAL) and open_clip.get_model_config(architecture)["text_cfg"].get(
            "hf_tokenizer_name"
        ):
            check_tokenizer_files(Path(architecture.removeprefix(LOCAL)))
        with quiet():
            return open_clip.get_tokenizer(architecture)
    except ArgumentError:
        raise
    except ImportError as error:
        raise MissingExtraError(
            f"the tokenizer of {architecture} needs transformers; pip install 'tracerft[hf]'"
        ) from error
    except Exception as error:  # transformers raises many kinds for a tokenizer that is not there
        reason = " ".join(str(error).split())[:200]
        where = "put its files into that folder" if architecture.startswith(LOCAL) else OFFLINE
        raise ArgumentError(f"`model`: the tokenizer of {architecture} cannot be loaded ({reason}); {where}") from error


def image_spec(preprocess: Mapping[str, Any]) -> ImageSpec:
    """How a model wants its images, from open_clip's preprocessing configuration.

    Raises:
        ArgumentError: if it resizes in a way that the package does not offer.
    """
    size = preprocess["size"]
    height, width = (size, size) if isinstance(size, int) else (size[0], size[-1])
    resize = preprocess.get("resize_mode", "shortest")
    if resize not in ("shortest", "squash"):
        raise ArgumentError(f"`model` resizes images by {resize!r}; only shortest and squash are offered")
    interpolation = preprocess.get("interpolation", "bicubic")
    r, g, b = (float(value) for value in preprocess["mean"])
    deviations = (float(value) for value in preprocess["std"])
    return ImageSpec(
        (int(height), int(width)),
        (r, g, b),
        tuple(deviations),  # type: ignore[arg-type]
        interpolation="bicubic" if interpolation == "random" else interpolation,
        resize=resize,
    )


def write_open_clip(model: nn.Module, origin: Origin, folder: Path) -> dict[str, Tensor]:
    """Write configuration and tokenizer of the local-dir schema.

    Returns:
        The tensors that belong into ``open_clip_model.safetensors`` beside them.
    """
    config = copy.deepcopy(origin.config)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    if config["model_cfg"]["text_cfg"].get("hf_tokenizer_name") and origin.tokenize is not None:
        origin.tokenize.save(folder)  # stock open_clip looks for it in the same folder
    return dict(model.state_dict())
