"""Models for other programs: stock open_clip, transformers, ONNX."""

import copy
import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tracerft.errors import ArgumentError, DataError, MissingExtraError, TracerftError, one_of
from tracerft.models.encoder import LoadedModel
from tracerft.models.head import head_aside, save_head
from tracerft.models.lora import without_lora
from tracerft.models.probe import example_input
from tracerft.models.weights import load_model, save_model

FORMATS = ("open_clip", "hf", "onnx")
TOLERANCE = 1e-5
IMAGE_GRAPH, TEXT_GRAPH, DESCRIPTION = "image.onnx", "text.onnx", "tracerft_onnx.json"


def export_model(loaded: LoadedModel, out: Path | str, *, to: str = "open_clip") -> Path:
    """Write a model for another program, and check there that it gives the same embeddings.

    Args:
        loaded: as `load_model` gives it; adapters are merged in a copy.
        out: a folder that is new or empty.
        to: ``open_clip``, a local-dir folder; ``hf``, a folder for ``from_pretrained`` of transformers; ``onnx``, two
            graphs from images and token ids to unit-norm embeddings, with any batch size, and a description.

    A trained class head goes beside it as ``class_head.safetensors``: logits are scale * image weight^T + bias. Other
    programs do not read it and classify by captions, with the finetuned image tower.

    Returns:
        The folder.

    Raises:
        ArgumentError: if the model has no such form, or the folder is in use.
        DataError: if the written model gives other embeddings.
        MissingExtraError: if an optional package is needed.
    """
    one_of("to", to, FORMATS)
    out = Path(out)
    if (out.is_dir() and any(out.iterdir())) or out.is_file():
        raise ArgumentError(f"`out` {str(out)!r} is in use; choose another folder")
    with head_aside(loaded.model) as head:
        _write(loaded, out, to)
    if head is not None:
        save_head(head, out)
    return out


def _write(loaded: LoadedModel, out: Path, to: str) -> None:
    """The dual encoder in its new form, checked."""
    if to == "onnx":
        _to_onnx(loaded, out)
        return
    origin = getattr(loaded.model, "origin", None)
    family = "tiny" if origin is None else origin.family
    if family == "open_clip" and to == "hf":
        from tracerft.models.convert import open_clip_to_hf

        save_model(open_clip_to_hf(loaded).model, out)
    elif family == to:
        save_model(loaded.model, out)
    else:
        works = {"open_clip": "open_clip, onnx or, for a plain ViT, hf", "hf": "hf or onnx"}.get(family, "onnx")
        raise ArgumentError(f"`to` {to!r} does not fit {loaded.source}: there is no such form of it; use {works}")
    _check_read_back(loaded.model, out)


def _check_read_back(model: nn.Module, out: Path) -> None:
    again = load_model(out).model
    with torch.no_grad():
        for method, given in zip(("encode_image", "encode_text"), example_input(model), strict=True):
            theirs = getattr(again, method)(given.cpu(), normalize=True)
            _same(method, getattr(model, method)(given, normalize=True).cpu(), theirs)


def _same(what: str, ours: Tensor, theirs: Tensor) -> None:
    gap = float((ours - theirs).abs().max())
    if not gap <= TOLERANCE:
        raise DataError(
            f"the exported model's {what} differs by {gap:.1e} (at most {TOLERANCE:.0e} expected); not usable"
        )


class _Tower(nn.Module):
    """One method of a model as a module, which is what the exporter takes."""

    def __init__(self, model: nn.Module, method: str) -> None:
        super().__init__()
        self.model, self.method = model, method

    def forward(self, given: Tensor) -> Tensor:
        out: Tensor = getattr(self.model, self.method)(given, normalize=True)
        return out


def _to_onnx(loaded: LoadedModel, out: Path) -> None:
    runtime = _import_onnx()
    model = without_lora(copy.deepcopy(loaded.model)).cpu().float().eval()
    images, tokens = example_input(model, 2)
    out.mkdir(parents=True, exist_ok=True)
    towers = ((IMAGE_GRAPH, "encode_image", "image", images), (TEXT_GRAPH, "encode_text", "text", tokens))
    try:
        for file, method, name, given in towers:
            tower = _Tower(model, method)
            _write_graph(tower, given, name, out / file, loaded.source)
            _check_graph(runtime, out / file, tower, given)
    except TracerftError:  # the folder was new or empty, and half an export is none
        for written in out.iterdir():
            written.unlink()
        raise
    bias = getattr(model, "logit_bias", None)
    description = {
        "source": loaded.source,
        "scale": float(model.logit_scale.detach().exp()),  # type: ignore[operator]
        "bias": None if bias is None else float(bias.detach()),
        "context": tokens.shape[1],
        "image": None if loaded.image is None else asdict(loaded.image),
    }
    (out / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")


def _write_graph(tower: _Tower, given: Tensor, name: str, path: Path, source: str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter, about its own parts; the result is checked by running it
            torch.onnx.export(
                tower,
                (given,),
                path,
                input_names=[name],
                output_names=[f"{name}_features"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # whatever the model's code or the exporter stumbles over; they share no base
        reason = " ".join(str(error.__cause__ or error).split())[:200]  # the exporter's own text is a page of advice
        raise ArgumentError(
            f"`to` onnx does not fit {source}: PyTorch's exporter cannot turn its {tower.method} into a graph "
            f"({reason}); use open_clip or hf, or another version of torch"
        ) from error


def _check_graph(runtime: Any, path: Path, tower: _Tower, given: Tensor) -> None:
    """Run what was written on one, two and three inputs; it was traced with two."""
    for num in (1, 2, 3):
        some = torch.cat([given, given.flip(0)])[:num]
        try:
            session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            (theirs,) = session.run(None, {session.get_inputs()[0].name: some.numpy()})
        except Exception as error:  # onnxruntime's errors share no base
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"{path}: onnxruntime cannot run a batch of {num} ({reason}); not usable") from error
        with torch.no_grad():
            _same(tower.method, tower(some), torch.from_numpy(theirs))


def _import_onnx() -> Any:
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("ONNX needs onnx, onnxscript and onnxruntime; pip install 'tracerft[onnx]'") from error
    return onnxruntime
