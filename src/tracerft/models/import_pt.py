"""The one door for foreign ``.pt`` and ``.pth`` files: a process of its own reads them and leaves safetensors.

A pickle is a program. Here torch's restricted unpickler reads it (`weights_only`, with the few extra types that
`import_worker.ALLOWED` explains) in a child process with limits on memory, time and file size, without the
parent's environment, and with a guard against processes, connections and written files. Nothing else in the
package opens a pickle.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from tracerft.errors import ArgumentError, DataError

_WORKER = Path(__file__).with_name("import_worker.py")
_KEPT = (
    "PATH",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "SYSTEMROOT",
    "TMPDIR",
    "TEMP",
    "HOME",
)  # no tokens, no proxies
_MINUTE = 60


@dataclass(frozen=True)
class ImportedWeights:
    """What an import left behind.

    Args:
        path: the safetensors file; its metadata ``order`` lists the tensors in the order of the source.
        num_tensors: how many it holds.
        source_sha256: of the file that was read.
        sha256: of the file that was written.
    """

    path: Path
    num_tensors: int
    source_sha256: str
    sha256: str


def import_pt(
    path: Path | str,
    out: Path | str,
    *,
    key: str | None = None,
    max_bytes: int = 8 << 30,
    cpu_seconds: int = 10 * _MINUTE,
) -> ImportedWeights:
    """Turn the state dict in a PyTorch file into safetensors without running anything the file says.

    Args:
        path: the ``.pt`` or ``.pth`` file.
        out: the safetensors file to write, whole or not at all; one of that name is replaced.
        key: the entry that holds the state dict; by default the file itself or its only entry named
            ``state_dict``, ``model_state_dict``, ``model`` or ``weights``.
        max_bytes: largest file, and largest sum of its tensors; memory is limited to about three times this.
        cpu_seconds: processor time for reading and writing.

    Returns:
        What was written, with its hashes.

    Raises:
        ArgumentError: if ``out`` is not a ``.safetensors`` name or a limit is not positive.
        DataError: if the file is missing, holds code, is no checkpoint, is too large, or takes too long.
    """
    path, out = Path(path), Path(out)
    if out.suffix != ".safetensors":
        raise ArgumentError(f"`out` must end in .safetensors; got {str(out)!r}")
    if max_bytes < 1 or cpu_seconds < 1:
        raise ArgumentError(f"`max_bytes` and `cpu_seconds` must be positive; got {max_bytes} and {cpu_seconds}")
    _check_source(path, max_bytes)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{out.name}.", suffix=".writing", dir=out.parent)
        os.close(descriptor)
        temporary = Path(name)
        try:
            _run(path, temporary, key, max_bytes, cpu_seconds)
            count = _seal(temporary)
            written = ImportedWeights(out, count, file_sha256(path), file_sha256(temporary))
            os.replace(temporary, out)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{out}: not written ({error}); choose a folder with room that you may write to") from error
    return written


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_order(path: Path) -> list[str]:
    """The names of the tensors in the order of the file that was imported.

    Raises:
        DataError: if `import_pt` did not write this file.
    """
    try:
        with safe_open(path, "pt") as file:
            return [str(name) for name in json.loads((file.metadata() or {})["order"])]
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: not a file that import_pt wrote ({error}); import it again") from error


def _check_source(path: Path, max_bytes: int) -> None:
    if not path.is_file():
        raise DataError(f"{path}: no such file to import")
    size = path.stat().st_size
    if size > max_bytes:
        raise DataError(f"{path}: {size:,} bytes, more than `max_bytes`={max_bytes:,}; raise it if you trust the size")


def _run(path: Path, out: Path, key: str | None, max_bytes: int, cpu_seconds: int) -> None:
    limits = ["--max-bytes", str(max_bytes), "--cpu-seconds", str(cpu_seconds)]
    command = [sys.executable, "-I", str(_WORKER), str(path.resolve()), str(out.resolve()), *limits]
    environment = {k: os.environ[k] for k in _KEPT if k in os.environ} | {"OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command + ([f"--key={key}"] if key is not None else []),
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=2 * cpu_seconds + _MINUTE,  # a process that only waits uses no processor time
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(f"{path}: not imported within {error.timeout:.0f} s; raise `cpu_seconds`") from error
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise DataError(
            f"{path}: the importing process ended early ({last[0]}); the file is damaged, or needs more than "
            "`max_bytes` or `cpu_seconds`"
        ) from None
    if "kind" in answer:
        raise DataError(f"{path}: {_explain(answer)}")


def _explain(answer: Mapping[str, str]) -> str:
    text = " ".join(answer["text"].split())
    cures = {
        "code": f"refused, it may run code ({text}); ask its author for safetensors or a plain state dict",
        "key": f"{text}; pass one of them as `key`",
        "format": f"not a checkpoint of plain tensors ({text}); pass `key` or save model.state_dict()",
        "size": f"too large ({text}); raise `max_bytes` if you trust it",
        "load": f"not a PyTorch checkpoint, or damaged ({text}); get it again",
    }
    return cures[answer["kind"]]


def _seal(path: Path) -> int:
    """Number of tensors in a whole file, synced to disk."""
    with safe_open(path, "pt") as file:
        count = len(file.keys())
    with path.open("rb") as handle:
        os.fsync(handle.fileno())
    return count
