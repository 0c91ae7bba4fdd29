"""Models of transformers 5: CLIP, SigLIP and SigLIP 2 of fixed resolution, with the surface of a `DualEncoder`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracerft.errors import ArgumentError, DataError, MissingExtraError
from tracerft.models.encoder import LazyTokenizer, LoadedModel, Origin, check_tokenizer_files
from tracerft.models.quiet import quiet
from tracerft.types import ImageSpec

FAMILIES = ("clip", "siglip")
RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class HFDualEncoder(nn.Module):
    """A `CLIPModel` or `SiglipModel` behind the surface of an open_clip model.

    Args:
        model: as transformers built it; kept as ``model``, so parameter names begin with ``model.``.

    Note:
        No attention mask is passed: CLIP's text tower is causal and pooled at the end of the text, and SigLIP was
        trained to attend to its padding.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        config: Any = model.config
        self.text_end: int | str | None = None
        if config.model_type == "clip":  # id 2 is transformers' mark for old files, pooled at the highest id
            end = config.text_config.eos_token_id
            self.text_end = "argmax" if end == 2 else end

    @property
    def logit_scale(self) -> Tensor:
        """Logarithm of the scale: ``()`` for CLIP, ``(1,)`` for SigLIP."""
        return self.model.logit_scale  # type: ignore[return-value]

    @property
    def logit_bias(self) -> Tensor | None:
        """SigLIP's bias ``(1,)``; CLIP has none."""
        return getattr(self.model, "logit_bias", None)

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """``(N, 3, H, W)`` to ``(N, D)``, unit-norm on request."""
        return _embedding(self.model.get_image_features(pixel_values=image), normalize)  # type: ignore[operator]

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """``(N, L)`` token ids to ``(N, D)``, unit-norm on request."""
        return _embedding(self.model.get_text_features(input_ids=text), normalize)  # type: ignore[operator]

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, ...]:
        """Unit-norm image and text, exponentiated scale and, for SigLIP, the bias, as open_clip returns them."""
        bias = () if self.logit_bias is None else (self.logit_bias,)
        return self.encode_image(image, True), self.encode_text(text, True), self.logit_scale.exp(), *bias


def _embedding(output: Any, normalize: bool) -> Tensor:
    features: Tensor = output if torch.is_tensor(output) else output.pooler_output
    return F.normalize(features, dim=-1) if normalize else features


class FixedLengthTokenizer:
    """A tokenizer of transformers, padded to the model's context, as SigLIP needs it.

    Args:
        tokenizer: of transformers.
        context: number of tokens L.
    """

    def __init__(self, tokenizer: Any, context: int) -> None:
        self.tokenizer, self.context = tokenizer, context

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Token ids ``(N, L)``; longer captions are cut, the end of the text kept."""
        batch = self.tokenizer(
            list(captions), padding="max_length", truncation=True, max_length=self.context, return_tensors="pt"
        )
        tokens: Tensor = batch["input_ids"]
        return tokens

    def save_pretrained(self, folder: str) -> None:
        """Write the tokenizer's files."""
        self.tokenizer.save_pretrained(folder)


def load_hf(name: str) -> LoadedModel:
    """Load a model of transformers with its tokenizer and preprocessing, in float32 and from safetensors only.

    Args:
        name: a name on the hub or a folder that `save_pretrained` wrote.

    Raises:
        ArgumentError: if the model is of another family or cannot be fetched.
        DataError: if a folder is damaged.
        MissingExtraError: if transformers is not installed.
    """
    transformers = import_transformers()
    local = Path(name).is_dir()
    options: dict[str, Any] = {"local_files_only": local}
    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(name, **options)
            check_family(config)
            inner = transformers.AutoModel.from_pretrained(
                name, config=config, dtype=torch.float32, use_safetensors=True, **options
            )
    except ArgumentError:
        raise
    except Exception as error:  # transformers, the hub and safetensors raise many kinds
        reason = " ".join(str(error).split())[:300]
        if local:
            raise DataError(f"{name}: cannot be loaded by transformers ({reason})") from error
        raise ArgumentError(
            f"`model` hf:{name} cannot be loaded ({reason}); without a network, pass hf:FOLDER with its files"
        ) from error
    processor = _load_processor(transformers, name, options)
    return wrap_hf(inner, lambda: transformers.AutoTokenizer.from_pretrained(name, **options), processor, f"hf:{name}")


def wrap_hf(inner: Any, tokenizer: Any, processor: Any, source: str) -> LoadedModel:
    """A `LoadedModel` around a model of transformers in eval mode.

    Args:
        inner: `CLIPModel` or `SiglipModel`.
        tokenizer: called without arguments at the first caption; returns a tokenizer of transformers.
        processor: image processor of transformers, or ``None`` for the family's usual preprocessing.
        source: for the record.
    """
    check_family(inner.config)
    context = inner.config.text_config.max_position_embeddings

    def build() -> FixedLengthTokenizer:
        try:
            if Path(source.removeprefix("hf:")).is_dir():
                check_tokenizer_files(Path(source.removeprefix("hf:")))
            with quiet():
                return FixedLengthTokenizer(tokenizer(), context)
        except ArgumentError:
            raise
        except Exception as error:  # as above
            reason = " ".join(str(error).split())[:200]
            raise ArgumentError(f"`model`: the tokenizer of {source} cannot be loaded ({reason})") from error

    model, tokenize = HFDualEncoder(inner.eval()), LazyTokenizer(build)
    model.origin = Origin("hf", {}, tokenize, processor)  # type: ignore[assignment]
    return LoadedModel(model, tokenize, source, image_spec(inner.config, processor))


def import_transformers() -> Any:
    """The package, or `MissingExtraError`."""
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError("models of transformers need it installed; pip install 'tracerft[hf]'") from error
    return transformers


def check_family(config: Any) -> None:
    """Raise `ArgumentError` unless the configuration is of a family that is adapted."""
    if config.model_type == "siglip2":
        raise ArgumentError(
            "`model` is a SigLIP 2 NaFlex model, which takes patches of any image shape; use one of fixed resolution, "
            "such as hf:google/siglip2-base-patch16-224"
        )
    if config.model_type not in FAMILIES:
        raise ArgumentError(
            f"`model` is a {config.model_type!r} model of transformers; expected {' or '.join(FAMILIES)} "
            "(fixed-resolution SigLIP 2 included); many others are in open_clip: pass open_clip:ARCH/PRETRAINED"
        )


def _load_processor(transformers: Any, name: str, options: dict[str, Any]) -> Any:
    try:
        return transformers.AutoImageProcessor.from_pretrained(name, **options)
    except (OSError, ValueError, ImportError):
        return None  # a model folder without one: the family's usual preprocessing is taken


def image_spec(config: Any, processor: Any) -> ImageSpec:
    """How a model wants its images, from its image processor or, without one, from what its family was trained on."""
    side = config.vision_config.image_size
    if processor is None:
        if config.model_type == "clip":
            return ImageSpec((side, side), CLIP_MEAN, CLIP_STD)
        return ImageSpec((side, side), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), resize="squash")
    size = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
    height, width = (size.get(k) or side for k in ("height", "width"))
    resample = RESAMPLE.get(int(processor.resample))
    if resample is None:
        raise ArgumentError(
            f"`model` resamples images by {processor.resample!r}; only bicubic and bilinear are offered"
        )
    return ImageSpec(
        (int(height), int(width)),
        tuple(float(v) for v in processor.image_mean),  # type: ignore[arg-type]
        tuple(float(v) for v in processor.image_std),  # type: ignore[arg-type]
        interpolation=resample,
        resize="shortest" if "shortest_edge" in processor.size else "squash",
    )


def write_hf(model: HFDualEncoder, origin: Origin, folder: Path) -> None:
    """Write model, tokenizer and image processor with `save_pretrained`."""
    model.model.save_pretrained(str(folder))  # type: ignore[operator]
    if origin.tokenize is not None:
        origin.tokenize.save(folder)
    if origin.processor is not None:
        origin.processor.save_pretrained(str(folder))


def is_hf_folder(folder: Path) -> bool:
    """Whether the folder holds a model of transformers."""
    try:
        return "model_type" in json.loads((folder / "config.json").read_text())
    except (OSError, ValueError, TypeError):
        return False
