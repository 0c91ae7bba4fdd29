"""A plain ViT of open_clip as a `CLIPModel` of transformers; both hold the same tensors in other places."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from tracerft.errors import ArgumentError
from tracerft.models.encoder import LoadedModel
from tracerft.models.hf import import_transformers, wrap_hf
from tracerft.models.lora import without_lora

PLAIN_VISION = {"layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size"}
PLAIN_TEXT = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}


def open_clip_to_hf(loaded: LoadedModel) -> LoadedModel:
    """The same weights as a model of transformers, with tokenizer and preprocessing.

    Raises:
        ArgumentError: if the architecture has parts that `CLIPModel` lacks.
        MissingExtraError: if transformers is not installed.
    """
    transformers = import_transformers()
    model: Any = without_lora(loaded.model)
    cfg: Mapping[str, Any] = model.origin.config["model_cfg"]
    vision, text = cfg["vision_cfg"], cfg["text_cfg"]
    extra = {k for k, v in vision.items() if v and k not in PLAIN_VISION}
    extra |= {k for k, v in text.items() if v and k not in PLAIN_TEXT}
    extra |= {k for k in ("custom_text", "multimodal_cfg", "init_logit_bias") if cfg.get(k)}
    if extra or isinstance(vision["layers"], list) or not isinstance(vision["image_size"], int):
        raise ArgumentError(
            f"`to` 'hf' takes plain ViT models of open_clip; {loaded.source} has "
            f"{', '.join(sorted(extra)) or 'a ResNet'}, which CLIPModel lacks; use open_clip or onnx"
        )
    activation = "quick_gelu" if cfg.get("quick_gelu") else "gelu"
    config = transformers.CLIPConfig(
        projection_dim=cfg["embed_dim"],
        vision_config=_tower(vision, vision["width"] // vision.get("head_width", 64), activation)
        | {"image_size": vision["image_size"], "patch_size": vision["patch_size"]},
        text_config=_tower(text, text["heads"], activation)
        | {
            "vocab_size": text["vocab_size"],
            "max_position_embeddings": text["context_length"],
            "bos_token_id": text["vocab_size"] - 2,
            "eos_token_id": text["vocab_size"] - 1,  # the highest id, at which open_clip pools
        },
    )
    inner = transformers.CLIPModel(config)
    inner.load_state_dict(dict(_renamed(model)))
    return wrap_hf(
        inner, lambda: _tokenizer(transformers, loaded.tokenize), _processor(transformers, loaded), loaded.source
    )


def _tower(cfg: Mapping[str, Any], heads: int, activation: str) -> dict[str, Any]:
    return {
        "hidden_size": cfg["width"],
        "intermediate_size": int(cfg["width"] * cfg.get("mlp_ratio", 4.0)),
        "num_hidden_layers": cfg["layers"],
        "num_attention_heads": heads,
        "hidden_act": activation,
    }


def _renamed(model: Any) -> Iterator[tuple[str, Tensor]]:
    visual = model.visual
    yield "logit_scale", model.logit_scale
    yield "visual_projection.weight", visual.proj.T
    yield "text_projection.weight", model.text_projection.T
    yield "vision_model.embeddings.class_embedding", visual.class_embedding
    yield "vision_model.embeddings.patch_embedding.weight", visual.conv1.weight
    yield "vision_model.embeddings.position_embedding.weight", visual.positional_embedding
    yield from _pair("vision_model.pre_layrnorm", visual.ln_pre)
    yield from _pair("vision_model.post_layernorm", visual.ln_post)
    yield from _blocks("vision_model.encoder.layers", visual.transformer.resblocks)
    yield "text_model.embeddings.token_embedding.weight", model.token_embedding.weight
    yield "text_model.embeddings.position_embedding.weight", model.positional_embedding
    yield from _pair("text_model.final_layer_norm", model.ln_final)
    yield from _blocks("text_model.encoder.layers", model.transformer.resblocks)


def _blocks(prefix: str, blocks: Any) -> Iterator[tuple[str, Tensor]]:
    for number, block in enumerate(blocks):
        here = f"{prefix}.{number}"
        weights, biases = block.attn.in_proj_weight.chunk(3), block.attn.in_proj_bias.chunk(3)
        for letter, weight, bias in zip("qkv", weights, biases, strict=True):
            yield f"{here}.self_attn.{letter}_proj.weight", weight
            yield f"{here}.self_attn.{letter}_proj.bias", bias
        yield from _pair(f"{here}.self_attn.out_proj", block.attn.out_proj)
        yield from _pair(f"{here}.layer_norm1", block.ln_1)
        yield from _pair(f"{here}.layer_norm2", block.ln_2)
        yield from _pair(f"{here}.mlp.fc1", block.mlp.c_fc)
        yield from _pair(f"{here}.mlp.fc2", block.mlp.c_proj)


def _pair(prefix: str, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield f"{prefix}.weight", module.weight  # type: ignore[misc]
    yield f"{prefix}.bias", module.bias  # type: ignore[misc]


def _processor(transformers: Any, loaded: LoadedModel) -> Any:
    spec = loaded.image
    if spec is None:
        return None
    size = {"height": spec.size[0], "width": spec.size[1]}
    shortest = spec.resize == "shortest"
    return transformers.CLIPImageProcessor(
        size={"shortest_edge": min(spec.size)} if shortest else size,
        crop_size=size,
        do_center_crop=shortest,
        image_mean=list(spec.mean),
        image_std=list(spec.std),
        resample=3 if spec.interpolation == "bicubic" else 2,
    )


def _tokenizer(transformers: Any, tokenize: Any) -> Any:
    """The vocabulary and merges of open_clip's tokenizer in transformers' class; padding ids differ, unseen by CLIP."""
    simple = tokenize.inner
    if not hasattr(simple, "bpe_ranks"):
        return simple.tokenizer  # one of transformers already
    frame = {simple.sot_token_id: "<|startoftext|>", simple.eot_token_id: "<|endoftext|>"}
    vocabulary = {frame.get(number, word): number for word, number in simple.encoder.items()}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=list(simple.bpe_ranks))
