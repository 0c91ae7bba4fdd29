"""Real architectures, small and with random weights, made on the spot."""

import atexit
import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import open_clip
import torch
from safetensors.torch import save_file

VISION = {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
CAPTIONS = ("a cat", "a photo of a dog", "the number three on a red ground")
OPEN_CLIP = {
    "vit": {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT},
    "quickgelu": {"embed_dim": 24, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT},
    "proj-bias": {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT | {"proj_bias": True}},
    "resnet": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None, "head_width": 64},
        "text_cfg": TEXT,
    },
    "custom-text": {"embed_dim": 24, "custom_text": True, "vision_cfg": VISION, "text_cfg": TEXT},
    "siglip": {
        "embed_dim": 32,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": VISION | {"pool_type": "tok"},
        "text_cfg": TEXT | {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
    },
    "timm": {
        "embed_dim": 24,
        "custom_text": True,
        "init_logit_bias": -10,
        "vision_cfg": {
            "image_size": 160,
            "timm_model_name": "test_vit",
            "timm_pool": "token",
            "timm_proj": "linear",
        },
        "text_cfg": TEXT,
    },
    "coca": {
        "embed_dim": 32,
        "vision_cfg": VISION | {"attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True},
        "text_cfg": TEXT | {"embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 1},
        "custom_text": True,
    },
}


def temporary(prefix: str) -> str:
    """A folder that goes with the process."""
    where = mkdtemp(prefix=prefix)
    atexit.register(shutil.rmtree, where, ignore_errors=True)
    return where


@cache
def folder(kind: str) -> str:
    """A local-dir folder, made with stock open_clip alone."""
    where = Path(temporary(f"tracerft-{kind}-"))
    config = {"model_cfg": OPEN_CLIP[kind], "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (where / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(3)
    model = open_clip.create_model(f"local-dir:{where}")
    save_file({name: t.contiguous() for name, t in model.state_dict().items()}, where / "open_clip_model.safetensors")
    return str(where)


def stock(kind: str) -> torch.nn.Module:
    """The model as open_clip loads it."""
    return open_clip.create_model(f"local-dir:{folder(kind)}").eval()


def images(num: int = 4, size: int = 32) -> torch.Tensor:
    """Seeded noise."""
    return torch.randn(num, 3, size, size, generator=torch.Generator().manual_seed(1))


def tokenizer(context: int, kind: str = "clip"):
    """A word-level tokenizer built on the spot; like CLIP's it frames the text, like SigLIP's it only ends it."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["<pad>", "<end>", "<start>", "<unk>", *sorted({w for caption in CAPTIONS for w in caption.split()})]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    frame = "<start> $A <end>" if kind == "clip" else "$A <end>"
    raw.post_processor = processors.TemplateProcessing(single=frame, special_tokens=[("<start>", 2), ("<end>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<end>", unk_token="<unk>", model_max_length=context
    )


def transformer(kind: str):
    """A small `CLIPModel` (``clip``; ``clip-old`` pools at the highest id) or `SiglipModel` (``siglip``)."""
    import transformers

    torch.manual_seed(4)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = sizes | {"vocab_size": 40, "max_position_embeddings": 12, "pad_token_id": 0}
    vision = sizes | {"image_size": 32, "patch_size": 8}
    if kind == "siglip":
        text |= {"eos_token_id": 1, "bos_token_id": 2}
        config = transformers.SiglipConfig(text_config=text, vision_config=vision)
        return transformers.SiglipModel(config).eval()
    text |= {"eos_token_id": 2 if kind == "clip-old" else 1, "bos_token_id": 3}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    return transformers.CLIPModel(config).eval()


@cache
def hf_folder(kind: str) -> str:
    """A folder that transformers alone wrote: model, tokenizer, image processor."""
    import transformers

    where = temporary(f"tracerft-hf-{kind}-")
    model = transformer(kind)
    model.save_pretrained(where)
    tokenizer(12, kind).save_pretrained(where)
    if kind == "siglip":
        processor = transformers.SiglipImageProcessor(size={"height": 32, "width": 32}, resample=2)
    else:
        processor = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(where)
    return where
