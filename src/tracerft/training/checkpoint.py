"""Checkpoint folders that stay valid whatever kills the process.

A checkpoint is written under a temporary name, synced, sealed by a manifest with the SHA-256 of each
part, and renamed; so a folder with the final name is whole or was damaged later, which the hashes show.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tracerft.errors import CheckpointError
from tracerft.methods import Method
from tracerft.split import part_of, whole

FORMAT = 1
MANIFEST, STATE = "manifest.json", "state.json"
TYPES = {  # as safetensors calls them
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
KEEP = 2  # the newest may be damaged, then the one before it serves


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint folder holds.

    Args:
        step: optimiser steps taken.
        parts: tensors by part (``student``, ``optimizer``, ``method``).
        state: plain values.
    """

    step: int
    parts: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def split_state(state: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Part a nested state into tensors by ``/``-joined name and the plain rest."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for key, value in state.items():
        name = f"{prefix}{key}"
        if torch.is_tensor(value):
            tensors[name] = value
        elif isinstance(value, Mapping):
            inner_tensors, inner_plain = split_state(value, f"{name}/")
            tensors |= inner_tensors
            plain[key] = inner_plain
        else:
            plain[key] = value
    return tensors, plain


def join_state(tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `split_state`."""
    state = json.loads(json.dumps(plain))
    for name, value in tensors.items():
        *folders, key = name.split("/")
        inner = state
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[key] = value
    return dict(state)


def restore(checkpoint: Checkpoint, model: nn.Module, method: Method) -> None:
    """Put a student and what its method keeps back, split as they are here; both are started already."""

    def mine(part: str, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: part_of(value, like.get(name, value)) for name, value in checkpoint.parts[part].items()}

    model.load_state_dict(mine("student", model.state_dict()))
    tensors = mine("method", split_state(method.state_dict())[0])
    method.load_state_dict(join_state(tensors, checkpoint.state["method"]))


def write_checkpoint(root: Path, checkpoint: Checkpoint, *, keep: int = KEEP) -> Path:
    """Write ``root/step-XXXXXXXX`` and remove all but the newest ``keep`` folders.

    Raises:
        CheckpointError: if the disk refuses; older checkpoints stay as they were.
    """
    final = root / f"step-{checkpoint.step:08d}"
    temporary = root / f".{final.name}.writing"
    try:
        root.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        hashes = {name: _write_part(temporary / name, data) for name, data in _files(checkpoint)}
        manifest = {"format": FORMAT, "step": checkpoint.step, "sha256": hashes}
        _write_part(temporary / MANIFEST, json.dumps(manifest, indent=1).encode())
        _sync_folder(temporary)
        if final.exists():  # a damaged one of the same step; a valid one would have been resumed
            shutil.rmtree(final)
        os.replace(temporary, final)
        _sync_folder(root)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)  # its room may be what is missing
        raise CheckpointError(
            f"{final}: checkpoint not written ({error}); older ones are untouched; make room there or make it "
            "writable, then resume the run"
        ) from error
    prune(root, keep=keep)
    return final


def prune(root: Path, *, keep: int = KEEP) -> None:
    """Remove all but the newest ``keep`` checkpoints."""
    for old in folders(root)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def remove_half_written(root: Path) -> None:
    """Remove what a process left that was killed while it wrote."""
    for half in root.glob(".step-*.writing"):
        shutil.rmtree(half, ignore_errors=True)


def _files(checkpoint: Checkpoint) -> list[tuple[str, bytes | dict[str, Tensor]]]:
    parts: list[tuple[str, bytes | dict[str, Tensor]]] = [(f"{n}.safetensors", t) for n, t in checkpoint.parts.items()]
    return [*parts, (STATE, json.dumps(checkpoint.state, indent=1, allow_nan=False).encode())]


def _write_part(path: Path, data: bytes | dict[str, Tensor]) -> str:
    if isinstance(data, bytes):
        path.write_bytes(data)
    else:
        _write_tensors(path, data)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """A safetensors file with one tensor in memory at a time, which its own writer cannot: split ones are gathered."""
    header: dict[str, Any] = {}
    end = 0
    for name in _sorted(tensors):
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # what follows is aligned
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in _sorted(tensors):
            dense = whole(tensors[name]).detach().cpu().contiguous()
            file.write(dense.reshape(-1).view(torch.uint8).numpy().data)


def _sorted(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names, those of wide numbers first, so that each tensor begins at a multiple of its number's size."""
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))


def in_order(parts: Mapping[str, Mapping[str, Tensor]]) -> Iterator[Tensor]:
    """All tensors in the order in which they are written: split ones must be gathered by all ranks in this one."""
    for tensors in parts.values():
        yield from (tensors[name] for name in _sorted(tensors))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def folders(root: Path) -> list[Path]:
    """Checkpoint folders below ``root``, oldest first."""
    return sorted(p for p in root.glob("step-*") if p.is_dir())


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read one checkpoint, every part checked against its hash.

    Raises:
        CheckpointError: if a part is missing, changed, or of an unknown format.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if manifest["format"] != FORMAT:
            raise CheckpointError(
                f"{folder}: format {manifest['format']}, this version reads {FORMAT}; update tracerft"
            )
        for name, expected in manifest["sha256"].items():
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                    raise CheckpointError(f"{folder / name}: content changed since it was written (SHA-256 differs)")
        names = [Path(name).stem for name in manifest["sha256"] if name.endswith(".safetensors")]
        parts = {name: load_file(folder / f"{name}.safetensors") for name in names}
        return Checkpoint(manifest["step"], parts, json.loads((folder / STATE).read_text()))
    except (OSError, KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{folder}: not a whole checkpoint ({error})") from error


def newest_checkpoint(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint whose hashes hold, and what was wrong with newer ones.

    Returns:
        The checkpoint (``None`` if there is none) and one line for each folder passed over.
    """
    problems: list[str] = []
    for folder in reversed(folders(root)):
        try:
            return read_checkpoint(folder), problems
        except CheckpointError as error:
            problems.append(str(error))
    return None, problems
