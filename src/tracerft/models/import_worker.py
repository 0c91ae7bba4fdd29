"""The inside of the sandbox of `import_pt`: reads a foreign pickle under limits, writes plain tensors.

Run as a file by a process of its own (``python -I import_worker.py``), so it imports nothing of the project.
It answers with one line of JSON: ``{"tensors": n}`` or ``{"kind": ..., "text": ...}``.
"""

import argparse
import json
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

# Beside tensors, containers and plain values, which torch's restricted unpickler knows, a file may hold:
ALLOWED = {
    "argparse.Namespace": "a training script's options, saved beside the weights; a bag of attributes",
    "pathlib.PosixPath": "a path among those options; building one touches no file",
    "pathlib._local.PosixPath": "the same, written by Python 3.13",
}
STATE_KEYS = ("state_dict", "model_state_dict", "model", "weights")
FORBIDDEN = (
    "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.remove", "os.rename", "os.rmdir", "os.kill",
    "subprocess.", "socket.", "pty.", "shutil.", "ctypes.dlopen", "webbrowser.", "urllib.",
)  # fmt: skip
HEADROOM = 768 << 20  # bytes for Python and torch themselves on top of what they hold before the file is opened


class Refusal(Exception):
    """Why the file is not taken: a kind for the parent and a text for the user."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def restrict(max_bytes: int, cpu_seconds: int) -> None:
    """Limit memory, processor time and file size of this process, where the system can."""
    try:
        import resource
    except ImportError:  # Windows: the parent's clock is the only limit
        return
    limits = {resource.RLIMIT_CPU: cpu_seconds, resource.RLIMIT_FSIZE: max_bytes + (1 << 20), resource.RLIMIT_CORE: 0}
    statm = Path("/proc/self/statm")
    if statm.exists():
        held = int(statm.read_text().split()[0]) * resource.getpagesize()
        limits[resource.RLIMIT_AS] = held + 3 * max_bytes + HEADROOM
    for kind, value in limits.items():
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


@contextmanager
def guarded() -> Iterator[None]:
    """While this lasts, starting a process, opening a connection or writing a file raises `Refusal`."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and set(str(arguments[1])) & set("wax+")
        if armed and (writes or event.startswith(FORBIDDEN)):
            raise Refusal("code", f"loading it tried `{event}`")

    armed = True
    sys.addaudithook(hook)  # cannot be taken back, hence the flag
    try:
        yield
    finally:
        armed = False


def read(path: Path) -> Any:
    """The object in the file, through torch's restricted unpickler."""
    for name in ALLOWED:
        module, _, cls = name.rpartition(".")
        found = getattr(sys.modules.get(module), cls, None)
        if found is not None:
            torch.serialization.add_safe_globals([(found, name)])
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise Refusal("format", "it is a compressed archive, which torch.save never writes")
            if any(name.partition("/")[2] == "constants.pkl" for name in archive.namelist()):
                raise Refusal("code", "it is a TorchScript archive, that is, a program")
    return torch.load(path, map_location="cpu", weights_only=True)


def state_dict(value: Any, key: str | None) -> dict[str, Any]:
    """The mapping of names to tensors: the named entry, the file itself, or its only well-known entry."""
    if key is not None:
        if not isinstance(value, Mapping) or key not in value:
            found = ", ".join(map(str, list(value)[:8])) if isinstance(value, Mapping) else type(value).__name__
            raise Refusal("key", f"there is no entry {key!r}; found: {found}")
        value = value[key]
    elif isinstance(value, Mapping) and not all(torch.is_tensor(v) for v in value.values()):
        inside = [k for k in STATE_KEYS if isinstance(value.get(k), Mapping)]
        if len(inside) == 1:
            value = value[inside[0]]
    if not isinstance(value, Mapping) or not value:
        what = "an empty mapping" if isinstance(value, Mapping) else f"a {type(value).__name__}"
        raise Refusal("format", f"expected a mapping of names to tensors, found {what}")
    return {str(name): entry for name, entry in value.items()}


def plain(tensors: dict[str, Any], max_bytes: int) -> dict[str, torch.Tensor]:
    """Dense CPU tensors, without the ``module.`` of a distributed wrapper; views and repeats become copies."""
    total = 0
    for name, t in tensors.items():
        if type(t) not in (torch.Tensor, torch.nn.Parameter):
            raise Refusal("format", f"entry {name!r} is a {type(t).__name__}, not a tensor")
        if t.layout is not torch.strided or t.is_quantized or t.device.type != "cpu":
            raise Refusal("format", f"entry {name!r} is not a dense tensor with its values in the file")
        total += t.numel() * t.element_size()  # a stride of 0 can name more values than the file holds
    if total > max_bytes:
        raise Refusal("size", f"its tensors take {total:,} bytes")
    cut = len("module.") if all(name.startswith("module.") for name in tensors) else 0
    return {name[cut:]: t.detach().contiguous().clone() for name, t in tensors.items()}


def diagnose(error: Exception) -> dict[str, str]:
    """What an error of torch or safetensors means for the user; torch's own text advises `weights_only=False`."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or ("memory" in text and "alloc" in text):
        return {"kind": "size", "text": "reading it takes more memory than the limit"}
    called = re.search(r"unsupported global:?\s+(?:GLOBAL\s+)?(\S+)", text, re.IGNORECASE)
    if called:
        return {"kind": "code", "text": f"it calls `{called[1]}`"}
    return {"kind": "load", "text": type(error).__name__}


def convert(path: Path, out: Path, *, key: str | None, max_bytes: int, cpu_seconds: int) -> dict[str, Any]:
    """Do all of it; the order of the tensors, which safetensors does not keep, goes into the metadata."""
    restrict(max_bytes, cpu_seconds)
    try:
        with guarded():
            value = read(path)
        tensors = plain(state_dict(value, key), max_bytes)
        save_file(tensors, out, {"order": json.dumps(list(tensors))})
    except Refusal as refusal:
        return {"kind": refusal.kind, "text": str(refusal)}
    except Exception as error:  # a damaged file can fail anywhere in the unpickler
        return diagnose(error)
    return {"tensors": len(tensors)}


def main() -> None:
    """Read the arguments, convert, answer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--key")
    parser.add_argument("--max-bytes", type=int, required=True)
    parser.add_argument("--cpu-seconds", type=int, required=True)
    options = parser.parse_args()
    answer = convert(
        options.path, options.out, key=options.key, max_bytes=options.max_bytes, cpu_seconds=options.cpu_seconds
    )
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
