"""Weights in and out: safetensors and a JSON description, never pickle."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tracerft.errors import ArgumentError, DataError, did_you_mean
from tracerft.models.encoder import LoadedModel
from tracerft.models.tiny import TinyConfig, TinyDualEncoder, tokenize

CONFIG, WEIGHTS = "tracerft_model.json", "model.safetensors"
NAMES = ("tiny", "tiny:random")


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a safetensors file; shared and strided ones are copied first."""
    save_file({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        DataError: if the file is missing or not whole.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: not a whole safetensors file ({error}); restore it or train again") from error


def save_model(model: nn.Module, folder: Path | str) -> Path:
    """Write a model as a folder that `load_model` reads.

    Raises:
        ArgumentError: if the model cannot say how to build it again.
    """
    folder = Path(folder)
    describe = getattr(model, "describe", None)
    if describe is None:
        raise ArgumentError(f"`model` of type {type(model).__name__} cannot be saved: it has no describe()")
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / WEIGHTS, model.state_dict())
    (folder / CONFIG).write_text(json.dumps(describe(), indent=2) + "\n")
    return folder


def _tiny(description: Mapping[str, Any], tensors: Mapping[str, Tensor] | None, seed: int, source: str) -> LoadedModel:
    config = TinyConfig(**description)
    model = TinyDualEncoder(config, seed=seed)
    if tensors is not None:
        try:
            model.load_state_dict(dict(tensors))
        except RuntimeError as error:
            raise DataError(
                f"{source}: weights do not fit the described model ({str(error).splitlines()[-1].strip()})"
            ) from error
    return LoadedModel(model, _tokenizer(config), source)


def _tokenizer(config: TinyConfig) -> Callable[[Sequence[str]], Tensor]:
    return partial(tokenize, context=config.context)


def load_model(spec: str | Path, *, seed: int = 0) -> LoadedModel:
    """Load a dual encoder with its tokenizer.

    Args:
        spec: ``tiny`` (the packaged digits model), ``tiny:random`` (the same, untrained), a model folder
            written by `save_model`, or a run folder (its student).
        seed: keys the initial weights of ``tiny:random``.

    Raises:
        ArgumentError: if nothing of that name is known.
        DataError: if the folder is damaged.
    """
    if spec == "tiny":
        packaged = resources.files("tracerft.models") / "tiny"
        with resources.as_file(packaged) as folder:
            return _from_folder(folder, "tiny")
    if spec == "tiny:random":
        return _tiny({}, None, seed, "tiny:random")
    folder = Path(spec)
    for candidate in (folder, folder / "student"):
        if (candidate / CONFIG).is_file():
            return _from_folder(candidate, str(spec))
    what = "is a folder without a finished model" if folder.is_dir() else "is neither a known name nor a folder"
    raise ArgumentError(
        f"`model` {str(spec)!r} {what}; expected {' or '.join(NAMES)}, or a run or model folder"
        + did_you_mean(spec, NAMES)
    )


def _from_folder(folder: Path, source: str) -> LoadedModel:
    try:
        description = json.loads((folder / CONFIG).read_text())
        if description["family"] != "tiny":
            raise DataError(f"{folder / CONFIG}: unknown model family {description['family']!r}")
        return _tiny(description["model"], load_tensors(folder / WEIGHTS), 0, source)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(f"{folder / CONFIG}: not a model description ({error}); save the model again") from error


def num_parameters(model: nn.Module) -> tuple[int, int]:
    """Trained and total number of parameters, tied ones counted once."""
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trained in counts if trained), sum(n for n, _ in counts)


def pick_device(name: str) -> torch.device:
    """``auto`` is cuda, else mps, else cpu; anything else is taken at its word.

    Raises:
        ArgumentError: if the device is unknown or not there.
    """
    if name == "auto":
        return torch.device(
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    try:
        return torch.empty(0, device=torch.device(name)).device
    except (RuntimeError, AssertionError) as error:
        raise ArgumentError(
            f"`train.device` {name!r} cannot be used ({str(error).splitlines()[0]}); try auto"
        ) from error
