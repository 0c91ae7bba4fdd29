"""How bad data sets are made: each maker takes a folder and returns arguments for `read_manifest`."""

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

from tests.data.pictures import class_set, encoded, picture, put, table, tar

Make = Callable[[Path], dict]


def csv_set(text, **options) -> Make:
    """A CSV with images beside it."""
    return lambda folder: {"path": table(folder, text), **options}


def jsonl_set(text, **options) -> Make:
    """JSON lines with images beside them."""
    return lambda folder: {"path": table(folder, text, "captions.jsonl"), **options}


def files(*names: str, **options) -> Make:
    """Pictures where the name ends in .png, one byte elsewhere."""

    def make(folder: Path) -> dict:
        for i, name in enumerate(names):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(picture(seed=i)) if name.endswith(".png") else b"x")
        return {"path": folder, **options}

    return make


def tar_set(*members, name="t.tar", **options) -> Make:
    """A tar of these members."""
    return lambda folder: {"path": tar(folder / name, members), **options}


def info(name: str, kind: bytes = tarfile.REGTYPE, **fields) -> tarfile.TarInfo:
    """The header of a tar member."""
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def link(target: str, name: str) -> Make:
    """A class folder set with one link; ``{folder}`` is what holds the set."""

    def make(folder: Path) -> dict:
        put(folder / "outside/x.png")
        class_set(folder / "set")
        (folder / "set" / name).symlink_to(target.format(folder=folder))
        return {"path": folder / "set"}

    return make


def table_link(folder: Path) -> dict:
    """A table whose image is a link out."""
    put(folder / "outside.png")
    path = table(folder / "set", "image,caption\na.png,x\nlink.png,y\n")
    (folder / "set/link.png").symlink_to(folder / "outside.png")
    return {"path": path}


def link_loop(folder: Path) -> dict:
    """A table whose image is a link to itself."""
    path = table(folder, "image,caption\na.png,x\nloop.png,y\n")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    return {"path": path}


def pipe(folder: Path) -> dict:
    """A class folder with a named pipe, which would block for ever."""
    class_set(folder)
    os.mkfifo(folder / "cat/pipe.png")
    return {"path": folder}


def cut_tar(keep: int) -> Make:
    """A tar cut to so many bytes."""

    def make(folder: Path) -> dict:
        path = tar(folder / "t.tar", [("0.png", encoded()), ("0.txt", b"x")])
        path.write_bytes(path.read_bytes()[:keep])
        return {"path": path}

    return make


def flipped_tar(folder: Path) -> dict:
    """A tar whose second header is damaged."""
    path = tar(folder / "t.tar", [("0.png", b"x" * 500), ("0.txt", b"x"), ("1.png", b"y")])
    raw = bytearray(path.read_bytes())
    raw[1024 + 150] ^= 0xFF  # the checksum of the second header
    path.write_bytes(raw)
    return {"path": path}


def one_file(name: str, data: bytes, **options) -> Make:
    """One file of these bytes."""

    def make(folder: Path) -> dict:
        (folder / name).write_bytes(data)
        return {"path": folder / name, **options}

    return make


def saved(folder: Path, **files: str) -> dict:
    """A folder with these JSON files."""
    for name, text in files.items():
        (folder / f"{name}.json").write_text(text)
    return {"path": folder}
