"""How what a command cannot use is made: each maker returns a function that changes the current folder."""

import json
import os
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

Make = Callable[[], object]
# Keys of a configuration, so that nothing but the aliases is wrong with the bomb.
_LEVELS = ("out", "data", "method", "freeze", "suite", "templates", "classes", "pool", "probe")


def bomb(key: str) -> str:
    """YAML of some 300 bytes that stands for 9^9 words under ``key``."""
    lines = [f"{_LEVELS[0]}: &a0 [{', '.join(['x'] * 9)}]"]
    lines += [f"{name}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i, name in enumerate(_LEVELS[1:], start=1)]
    return "\n".join([*lines, f"{key}: *a{len(_LEVELS) - 1}"])


def text(name: str, content: str | bytes) -> Make:
    """A file, also in a folder that is not there yet."""

    def make() -> None:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return make


def altered(name: str, **fields: object) -> Make:
    """A JSON file with other values."""

    def make() -> None:
        path = Path(name)
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return make


def each_checkpoint(content: str | None = None, **fields: object) -> Make:
    """Another manifest, or other values in it, in every checkpoint of the run that was cut off."""

    def make() -> None:
        for path in Path("cut/checkpoints").glob("*/manifest.json"):
            (text(str(path), content) if content is not None else altered(str(path), **fields))()

    return make


def flipped(pattern: str) -> Make:
    """The last bit of some files flipped."""

    def make() -> None:
        for path in Path().glob(pattern):
            data = bytearray(path.read_bytes())
            data[-1] ^= 1
            path.write_bytes(data)

    return make


def weights(change: Callable[[Tensor], Tensor], *, leave: str = "") -> Make:
    """Other weights in the model, but for one tensor that is left out."""

    def make() -> None:
        path = "model/model.safetensors"
        save_file({name: change(t) for name, t in load_file(path).items() if name != leave}, path)

    return make


def with_code(name: str) -> Make:
    """A pickle that would make the file ``hacked`` when it is loaded."""
    return text(name, b"cos\nsystem\n(S'touch hacked'\ntR.")


def sparse(name: str, power: int) -> Make:
    """A file grown to 2^power bytes that take no room."""
    return lambda: os.truncate(name, 1 << power)
