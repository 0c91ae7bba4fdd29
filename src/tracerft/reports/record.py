"""JSON on disk: written whole or not at all, read back with a check.

Imports `errors` only; torch is loaded by `environment` alone.
"""

import json
import math
import os
import platform
import secrets
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from tracerft.errors import ArgumentError, DataError

RECORD = "record.json"
# Release series whose records have the layout that this release reads; a change of layout drops the old ones.
READABLE_SERIES = ("0.1",)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON so that ``path`` is at every moment the old file or the whole new one.

    Args:
        path: the file; its folder is created when missing.
        value: plain Python data with finite numbers.

    Raises:
        ArgumentError: if a number is NaN or infinite, or a value is not plain data; nothing is written then.
    """
    path = Path(path)
    write_text(path, _dumps(path, value))


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` (UTF-8) in one step; a crash leaves the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Same folder, because a rename is atomic within one file system only.
    temporary = path.parent / f".{path.name}.{secrets.token_hex(6)}.tmp"
    try:
        with temporary.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def read_json(path: Path, cure: str) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: the file.
        cure: what the user can do when the file is missing or damaged, as the end of a sentence.

    Raises:
        DataError: if the file is missing, is not JSON, is not an object, or holds NaN or an infinite number.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_finite, parse_float=_finite)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path} does not exist; {cure}") from None
    except (ValueError, RecursionError) as error:  # ValueError: no JSON, no UTF-8, or a number that is not finite
        raise DataError(f"{path} is not readable JSON ({error}); {cure}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} must hold a JSON object; got {type(value).__name__}; {cure}")
    return value


def read_record(folder: Path) -> dict[str, Any]:
    """Read the record of a finished run.

    Args:
        folder: the run's folder, which holds record.json.

    Returns:
        The record as plain data; ``results`` is ``{model: {split: {metric: value}}}``.

    Raises:
        DataError: if there is no record, the run did not finish, or another release series wrote it.
    """
    path = Path(folder) / RECORD
    resume = f"the run has not finished: go on with `tracerft finetune --resume {folder}`, or name a finished run"
    record = read_json(path, resume)
    if record.get("status") != "finished":
        raise DataError(f'{path} must say status "finished"; got {record.get("status")!r}; {resume}')
    version = str(record.get("tracerft"))
    if ".".join(version.split(".")[:2]) not in READABLE_SERIES:
        raise DataError(
            f"{path} was written by tracerft {version}; this release reads {', '.join(READABLE_SERIES)}; "
            f"install the version that wrote it or run again"
        )
    if not isinstance(record.get("results"), dict):
        raise DataError(f"{path} must hold `results` as an object; got {record.get('results')!r}; run again")
    return record


def environment() -> dict[str, str | int | None]:
    """Versions and sizes that can change a number; neither a host name nor a path.

    Returns:
        ``python, platform, machine, cpu_count, tracerft, torch, open_clip, torch_threads``; a package that is
        not installed is ``None``.
    """
    import torch

    return {
        "python": platform.python_version(),
        "platform": sys.platform,
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "tracerft": _version("tracerft"),
        "torch": str(torch.__version__),
        "open_clip": _version("open_clip_torch"),
        "torch_threads": torch.get_num_threads(),
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _finite(text: str) -> float:
    """A number as JSON's grammar allows it; Python's reader would also take NaN, Infinity and 1e999."""
    if not math.isfinite(float(text)):
        raise ValueError(f"{text} is not finite")
    return float(text)


def _dumps(path: Path, value: Any) -> str:
    """Indented JSON, or the place of the first value that JSON cannot hold."""
    try:
        return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (ValueError, TypeError) as error:
        place = _first_bad(value, "value") or str(error)
        raise ArgumentError(
            f"`value` for {path.name} must be plain data with finite numbers; got {place}; write None where "
            "a number does not exist"
        ) from None


def _first_bad(value: Any, place: str) -> str | None:
    """Where the first non-finite number or foreign object sits, such as ``value.results.id.nll = nan``."""
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{place} = {value}"
    if value is None or isinstance(value, (str, int)):
        return None
    if isinstance(value, Mapping):
        parts = [(item, f"{place}.{key}") for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        parts = [(item, f"{place}[{index}]") for index, item in enumerate(value)]
    else:
        return f"{place} of type {type(value).__name__}"
    return next((found for item, where in parts if (found := _first_bad(item, where))), None)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the system lets a folder be opened."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return  # Windows refuses; there the rename is journalled
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network file systems do not sync folders
    finally:
        os.close(handle)
