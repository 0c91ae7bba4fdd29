"""Weights in and out: safetensors and a JSON description, never pickle."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tracerft.errors import ArgumentError, DataError, MissingExtraError, did_you_mean
from tracerft.models.encoder import LoadedModel, Origin
from tracerft.models.head import head_aside, load_head, save_head
from tracerft.models.lora import without_lora
from tracerft.models.tiny import TinyConfig, TinyDualEncoder, tokenize

CONFIG, WEIGHTS = "tracerft_model.json", "model.safetensors"
NAMES = ("tiny", "tiny:random")
FAMILIES = ("open_clip", "hf", "mini")


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


def save_model(model: nn.Module, folder: Path | str, *, architecture: str | None = None) -> Path:
    """Write a model as a folder that `load_model` reads; adapters are merged into a copy first.

    A model of open_clip becomes a folder in its ``local-dir`` schema, which stock open_clip loads, one of transformers
    a folder for ``from_pretrained``.

    Args:
        model: as `load_model` or a teacher gives it.
        folder: made if it is not there.
        architecture: open_clip's name of the architecture, for a model that open_clip itself built.

    Raises:
        ArgumentError: if the model cannot say how to build it again.
    """
    origin, describe = getattr(model, "origin", None), getattr(model, "describe", None)
    if origin is None and architecture is not None:
        from tracerft.models.open_clip import origin_of

        origin = origin_of(model, architecture)
    if origin is None and describe is None:
        raise ArgumentError(
            f"`model` of type {type(model).__name__} cannot be saved: it has no describe(); for one that open_clip "
            "built, give `architecture`, such as ViT-B-16-quickgelu"
        )
    model, folder = without_lora(model), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with head_aside(model) as head:
        _write(model, folder, origin)
    if head is not None:
        save_head(head, folder)
    return folder


def _write(model: nn.Module, folder: Path, origin: Origin | None) -> None:
    """The dual encoder alone, as its family writes it."""
    if origin is None:
        save_tensors(folder / WEIGHTS, model.state_dict())
        (folder / CONFIG).write_text(json.dumps(model.describe(), indent=2) + "\n")  # type: ignore[operator]
    elif origin.family == "open_clip":
        from tracerft.models import open_clip

        save_tensors(folder / open_clip.WEIGHTS, open_clip.write_open_clip(model, origin, folder))
    else:
        from tracerft.models.hf import write_hf

        write_hf(model, origin, folder)  # type: ignore[arg-type]


def _tiny(description: Mapping[str, Any], tensors: Mapping[str, Tensor] | None, seed: int, source: str) -> LoadedModel:
    config = TinyConfig(**description)
    if tensors is not None:
        try:
            _check_sizes(config, tensors)
            model = TinyDualEncoder(config, seed=seed)
            model.load_state_dict(dict(tensors))
        except RuntimeError as error:
            raise DataError(
                f"{source}: weights do not fit the described model ({str(error).splitlines()[-1].strip()})"
            ) from error
    else:
        model = TinyDualEncoder(config, seed=seed)
    return LoadedModel(model, _tokenizer(config), source)


def _check_sizes(config: TinyConfig, tensors: Mapping[str, Tensor]) -> None:
    """Raise `RuntimeError` unless the tensors are the model's, before memory is taken for what a description claims."""
    if max(config.layers, config.text_layers) > len(tensors):
        raise RuntimeError(f"{len(tensors)} tensors cannot be {config.layers} and {config.text_layers} layers")
    with torch.device("meta"):
        TinyDualEncoder(config).load_state_dict(dict(tensors), assign=True)


def _tokenizer(config: TinyConfig) -> Callable[[Sequence[str]], Tensor]:
    return partial(tokenize, context=config.context)


def load_model(spec: str | Path, *, seed: int = 0) -> LoadedModel:
    """Load a dual encoder with its tokenizer.

    Args:
        spec: ``tiny`` (the packaged digits model) or ``tiny:random`` (the same, untrained);
            ``open_clip:ARCH/PRETRAINED`` (without PRETRAINED: random weights), ``open_clip:local-dir:FOLDER``;
            ``hf:NAME`` or ``hf:FOLDER``; ``mini:NAME``; a model folder of any of these, or a run folder (its student).
        seed: keys random weights.

    Raises:
        ArgumentError: if nothing of that name is known, or it cannot be fetched.
        DataError: if the folder is damaged.
        MissingExtraError: if an optional package is needed.
    """
    spec = str(spec)
    if spec == "tiny":
        packaged = resources.files("tracerft.models") / "tiny"
        with resources.as_file(packaged) as folder:
            return _described(folder, "tiny")
    if spec == "tiny:random":
        return _tiny({}, None, seed, "tiny:random")
    family, _, name = spec.partition(":")
    if family in FAMILIES and name:
        return _of_family(family, name, seed)
    return _from_folder(Path(spec))


def _of_family(family: str, name: str, seed: int) -> LoadedModel:
    if family == "open_clip":
        from tracerft.models.open_clip import load_open_clip

        return load_open_clip(name, seed=seed)
    if family == "hf":
        from tracerft.models.hf import load_hf

        return load_hf(name)
    try:
        load_mini = import_module("tracerft.models.mini").load_mini
    except ImportError as error:
        raise MissingExtraError(f"mini:{name} is not in this installation ({error}); pass another model") from error
    loaded: LoadedModel = load_mini(name)
    return loaded


def _from_folder(folder: Path) -> LoadedModel:
    for candidate in (folder, folder / "student"):
        loaded = _from_files(candidate, str(folder))
        if loaded is not None:
            head = load_head(candidate)
            if head is not None:
                loaded.model.class_head = head
            return loaded
    what = "is a folder without a finished model" if folder.is_dir() else "is neither a known name nor a folder"
    near = did_you_mean(str(folder), NAMES)
    raise ArgumentError(
        f"`model` {str(folder)!r} {what}; expected {', '.join(NAMES)}, open_clip:ARCH/PRETRAINED, hf:NAME, or a run or "
        f"model folder{near}"
    )


def _from_files(folder: Path, source: str) -> LoadedModel | None:
    """The model in a folder, by the file that tells its family; ``None`` if there is no such file."""
    if (folder / CONFIG).is_file():
        return _described(folder, source)
    if (folder / "open_clip_config.json").is_file():
        return _of_family("open_clip", f"local-dir:{folder}", 0)
    if (folder / "config.json").is_file():
        return _of_family("hf", str(folder), 0)
    return None


def _described(folder: Path, source: str) -> LoadedModel:
    try:
        description = json.loads((folder / CONFIG).read_text())
        family, model = description["family"], description["model"]
        if family == "mini":
            build = import_module("tracerft.models.mini").mini_from_description
            loaded: LoadedModel = build(model, load_tensors(folder / WEIGHTS), source)
            return loaded
        if family != "tiny":
            raise DataError(f"{folder / CONFIG}: unknown model family {family!r}")
        return _tiny(model, load_tensors(folder / WEIGHTS), 0, source)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, RecursionError) as error:
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
