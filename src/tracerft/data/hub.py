"""A data set that the package `datasets` saved with ``save_to_disk``; nothing is downloaded, no code of it runs."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracerft.data.columns import Columns, check_separator, group_of, label_of, pick_columns, texts
from tracerft.data.found import Found, FoundSet
from tracerft.data.paths import MAX_FILE_BYTES
from tracerft.data.text import first_five, shown
from tracerft.errors import DataError, MissingExtraError

_NO_ROWS = "{}: the saved data set is empty; expected at least one row; save it again with images"


@dataclass(frozen=True)
class HubReader:
    """Encoded images in a column of Arrow tables, which stay on disk.

    Args:
        rows: ``datasets.Dataset`` whose images are not decoded.
        column: the image column.
    """

    rows: Any
    column: str

    def read(self, at: int, name: str) -> bytes:
        """The bytes of a row."""
        data: bytes | None = self.rows[at][self.column]["bytes"]
        if data is None:
            raise DataError(f"{name}: the row holds a path and no image; save the set again with embedded images")
        if len(data) > MAX_FILE_BYTES:
            raise DataError(f"{name}: {len(data) >> 20} MiB encoded, the limit is {MAX_FILE_BYTES >> 20} MiB")
        return data


def is_saved_set(folder: Path) -> bool:
    """Whether a folder was written by ``save_to_disk``."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "dataset_info.json").is_file() and (folder / "state.json").is_file()
    )


def read_saved_set(folder: Path, wanted: Mapping[str, str], *, separator: str | None = None) -> FoundSet:
    """The rows of a saved data set, images unread.

    Raises:
        DataError: if it holds several splits, is damaged, or lacks an image column.
        MissingExtraError: if the package is not installed.
    """
    check_separator(separator)
    where = shown(folder)
    if (folder / "dataset_dict.json").is_file():
        raise DataError(f"{where}: holds the splits {_splits(folder)}; give one of them, such as {where}/train")
    if _empty(folder):
        raise DataError(_NO_ROWS.format(where))
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(
            f"{where}: saved Hugging Face data sets need the package datasets; run `pip install 'tracerft[data]'`"
        ) from error
    try:
        rows = datasets.load_from_disk(str(folder))
        features = dict(rows.features)
    except Exception as error:  # damaged JSON and Arrow files end in a dozen types
        raise DataError(f"{where}: not a whole saved data set ({shown(error, 100)}); save it again") from error
    if not len(rows):
        raise DataError(_NO_ROWS.format(where))
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    if "image" not in wanted and len(images) == 1:
        wanted = {**wanted, "image": images[0]}
    columns = pick_columns(tuple(features), wanted, where)
    if columns.image not in images:
        raise DataError(
            f"{where}: {columns.image!r} is no image column; image columns found: {first_five(images) or '-'}"
        )
    for role in ("caption", "label", "group"):
        pick = getattr(columns, role)
        if pick is not None and pick not in features:
            raise DataError(
                f"{where}: columns.{role}={pick!r} must be one column here; columns: {first_five(features)}"
            )
    image = str(columns.image)
    rows = rows.cast_column(image, datasets.Image(decode=False))
    return FoundSet(
        _found(rows, columns, features, separator, where),
        HubReader(rows, image),
        declared=_names(features.get(columns.label or "")),
    )


def _empty(folder: Path) -> bool:
    """Whether there is no file of rows, which `datasets` writes for an empty set and then cannot load."""
    try:
        return not json.loads((folder / "state.json").read_text())["_data_files"]
    except (OSError, ValueError, KeyError, TypeError):
        return False  # loading says what is wrong


def _splits(folder: Path) -> str:
    try:
        return first_five(json.loads((folder / "dataset_dict.json").read_text())["splits"])
    except (OSError, ValueError, KeyError, TypeError):
        return "(unreadable)"


def _names(feature: Any) -> tuple[str, ...] | None:
    names = getattr(feature, "names", None)
    return tuple(names) if names else None


def _found(rows: Any, columns: Columns, features: Mapping[str, Any], separator: str | None, where: str) -> list[Found]:
    sizes = _sizes(rows, str(columns.image))
    found = [Found(f"row {i}", size, i, where=f"{where}, row {i}") for i, size in enumerate(sizes)]
    if columns.caption is not None:
        for entry, value in zip(found, rows[columns.caption], strict=True):
            entry.captions = texts("" if value is None else value, separator, entry.where)
    if columns.label is not None:
        for entry, value in _named(found, rows, features, columns.label):
            entry.label = label_of(value, entry.where)
    if columns.group is not None:
        for entry, value in _named(found, rows, features, columns.group):
            entry.group = group_of(value, entry.where)
    return found


def _named(found: list[Found], rows: Any, features: Mapping[str, Any], column: str) -> Iterator[tuple[Found, Any]]:
    """Each entry with its cell of a column, a number of a class by its name; ``None`` for one out of range."""
    names = _names(features[column])
    for entry, value in zip(found, rows[column], strict=True):
        number = names is not None and isinstance(value, int)
        yield entry, (names[value] if 0 <= value < len(names) else None) if number and names else value


def _sizes(rows: Any, column: str) -> list[int]:
    """Bytes of each image, from Arrow's offsets: the images themselves are not read."""
    import pyarrow.compute as pc

    sizes: list[int] = []
    for start in range(0, len(rows), 10_000):
        part = rows.with_format("arrow")[start : start + 10_000][column]
        for chunk in part.chunks if hasattr(part, "chunks") else [part]:
            lengths = pc.binary_length(chunk.field("bytes")).to_pylist()
            sizes.extend(0 if n is None else n for n in lengths)
    return sizes
