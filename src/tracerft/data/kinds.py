"""What a data set is kept in, from its path alone."""

from pathlib import Path

from tracerft.data.hub import is_saved_set
from tracerft.data.rows import TABLE_SUFFIXES
from tracerft.data.tar_index import COMPRESSED_SUFFIXES, TAR_SUFFIXES
from tracerft.data.text import first_five, shown
from tracerft.errors import DataError


def kind_of(path: Path) -> tuple[str, Path]:
    """Which reader fits, and what it should read."""
    name = path.name.lower()
    if "\0" in str(path) or not path.exists():
        raise DataError(f"{shown(path)}: no such file or folder; expected a data set; check the path")
    if name.endswith(COMPRESSED_SUFFIXES):
        raise DataError(
            f"{shown(path)}: compressed tars have no random access; unpack it to a plain .tar first (gunzip)"
        )
    if path.is_file():
        if name.endswith(TABLE_SUFFIXES):
            return "table", path
        if name.endswith(TAR_SUFFIXES):
            return "tars", path
    if not path.is_dir():
        raise DataError(
            f"{shown(path)}: not a data set; expected a folder, a table ({', '.join(TABLE_SUFFIXES)}) or a .tar"
        )
    tables = [path / f"captions{suffix}" for suffix in TABLE_SUFFIXES if (path / f"captions{suffix}").is_file()]
    if len(tables) > 1:
        raise DataError(f"{shown(path)}: has {first_five(t.name for t in tables)}; give the one to use as the path")
    if tables:
        return "table", tables[0]
    if is_saved_set(path):
        return "saved", path
    entries = [p for p in path.iterdir() if not p.name.startswith(".")]
    if any(p.name.lower().endswith(TAR_SUFFIXES) and not p.is_dir() for p in entries):
        return "tars", path
    return "folders", path
