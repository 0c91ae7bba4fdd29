"""What is fuzzed: a whole input of each kind, and a function that reads such a file."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save

from tests.data.pictures import encoded, picture, put, tar
from tracerft.cli.finetune import read_options
from tracerft.config import read_config
from tracerft.config_rules import check
from tracerft.data.images import decode
from tracerft.data.manifest import read_manifest
from tracerft.data.suite_file import read_suite_file
from tracerft.data.tar_index import index_tar
from tracerft.errors import TracerftError
from tracerft.models.weights import load_model, load_tensors
from tracerft.reports.run import write_run_report
from tracerft.training.checkpoint import Checkpoint, newest_checkpoint, write_checkpoint

COMPAT = Path(__file__).parents[1] / "compat/0.1.0"


@dataclass(frozen=True)
class Target:
    """Whole inputs to start from; ``read`` is given a folder and a damaged input; ``words`` are spliced in.

    ``slowness`` divides the number of inputs that are tried.
    """

    seeds: Callable[[Path], list[bytes]]
    read: Callable[[Path, bytes], object]
    words: tuple[bytes, ...] = ()
    slowness: int = 1


def _file(name: str, read: Callable[[Path], object]) -> Callable[[Path, bytes], object]:
    def written(folder: Path, data: bytes) -> object:
        (folder / name).write_bytes(data)
        return read(folder / name)

    return written


def _tars(folder: Path) -> list[bytes]:
    members = [(f"{i}.{e}", b"x" * 40) for i in range(2) for e in ("png", "txt", "json")]
    return [tar(folder / "seed.tar", members).read_bytes()]


def _options(path: Path) -> object:
    """The file that a user names."""
    return read_options(["--config", str(path)])


def _checkpoint(folder: Path, data: bytes) -> object:
    """The manifest of a checkpoint whose parts are whole; the newest is passed over if it is damaged."""
    newest = folder / "step-00000002"
    if not newest.is_dir():
        for step in (1, 2):
            write_checkpoint(folder, Checkpoint(step, {"student": {"w": torch.ones(2)}}, {"k": 1}))
    (newest / "manifest.json").write_bytes(data)
    found, problems = newest_checkpoint(folder)
    assert found is not None, "the checkpoint before is whole"
    for problem in problems:
        raise TracerftError(problem)
    return found


def _manifest_of_a_checkpoint(folder: Path) -> list[bytes]:
    saved = write_checkpoint(folder / "seed", Checkpoint(2, {"student": {"w": torch.ones(2)}}, {"k": 1}))
    return [(saved / "manifest.json").read_bytes()]


def _model(folder: Path, data: bytes) -> object:
    """The description of a model with its weights beside it."""
    (folder / "model.safetensors").write_bytes((COMPAT / "model/model.safetensors").read_bytes())
    (folder / "tracerft_model.json").write_bytes(data)
    return load_model(folder)


def _report(folder: Path, data: bytes) -> object:
    """A run's record and its page."""
    (folder / "metrics.jsonl").write_bytes((COMPAT / "finished/metrics.jsonl").read_bytes())
    (folder / "record.json").write_bytes(data)
    return write_run_report(folder)


def _log(folder: Path, data: bytes) -> object:
    """A run's log and its page."""
    (folder / "record.json").write_bytes((COMPAT / "finished/record.json").read_bytes())
    (folder / "metrics.jsonl").write_bytes(data)
    return write_run_report(folder)


def _suite(folder: Path, data: bytes) -> object:
    (folder / "photos").mkdir(exist_ok=True)
    return _file("suite.yaml", read_suite_file)(folder, data)


def _table(name: str) -> Callable[[Path, bytes], object]:
    def read(folder: Path, data: bytes) -> object:
        if not (folder / "a.png").is_file():
            put(folder / "a.png")
        return _file(name, read_manifest)(folder, data)

    return read


_SUITE = b"classes: [cat, dog]\ntemplates: ['a {}']\nid: {data: photos}\n"
_SUITE += b"shifts:\n  dark: {data: photos, columns: {label: x}}\n"
_SHORT = b"model: tiny\ndata: digits\nout: runs/a\nmethod: tracer\ntrain:\n  steps: 5\n  lr: 1e-3\n"
_JSON = (b"null", b"[]", b"{}", b"-1", b"1e999", b"NaN", b'""', b"true", b'"x"', b"[[", b"10000000000000000000000")
_YAML = (*_JSON, b"!!python/object:x", b"&a", b"*a", b"- ", b": ", b"2026-13-45", b"\x00", b"? ", b"<<: ", b"\xff")
_CSV = (b'"', b",", b";", b"\t", b"\r\n", b"\xef\xbb\xbf", b"\xff\xfe", b"\x00", b"../a.png", b"a.png", b"image")

TARGETS = {
    "csv": Target(lambda _: [b'image,caption,label\na.png,"x, y",1\na.png,z,1\n'], _table("t.csv"), _CSV),
    "jsonl": Target(lambda _: [b'{"image": "a.png", "caption": ["x"]}\n' * 2], _table("t.jsonl"), (*_JSON, *_CSV)),
    "tar": Target(
        _tars,
        _file("t.tar", lambda path: index_tar(str(path))),
        (b"../", b"\x00" * 8, b"7777777", b"\x80", b"GNUSparse"),
    ),
    "image": Target(
        lambda _: [encoded(picture(16, 12), kind) for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP")],
        lambda _, data: decode(data, "x"),
        (b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"IHDR", b"Exif\x00\x00"),
    ),
    "suite": Target(lambda _: [_SUITE], _suite, _YAML),
    "config": Target(
        lambda _: [(COMPAT / "cut/config.yaml").read_bytes()],
        _file("config.yaml", lambda path: check(read_config(path))),
        _YAML,
        slowness=2,
    ),
    "options": Target(lambda _: [_SHORT], _file("config.yaml", _options), _YAML, slowness=10),
    "safetensors": Target(
        lambda _: [save({"w": torch.ones(2, 2), "b": torch.zeros(2)})],
        _file("t.safetensors", load_tensors),
        (*_JSON, b"\xff" * 8, b"F64", b"data_offsets"),
    ),
    "checkpoint": Target(_manifest_of_a_checkpoint, _checkpoint, (*_JSON, b"../", b"\x00", b"state.json")),
    "model": Target(lambda _: [(COMPAT / "model/tracerft_model.json").read_bytes()], _model, _JSON, slowness=2),
    "record": Target(lambda _: [json.dumps(_short_record()).encode()], _report, _JSON, slowness=2),
    "log": Target(lambda _: [(COMPAT / "finished/metrics.jsonl").read_bytes()[:600]], _log, _JSON, slowness=3),
}


def _short_record() -> dict[str, object]:
    """A record of two models on two splits, small enough that damage hits every part of it."""
    record = json.loads((COMPAT / "finished/record.json").read_text())
    kept = {m: {s: record["results"][m][s] for s in ("id", "original")} for m in ("pretrained", "student")}
    return record | {"results": kept, "config": {"model": "m", "data": "d", "train": {"steps": 6}}}
