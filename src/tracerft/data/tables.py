"""Images named by a table: paths start from the table's folder and stay below it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracerft.data.columns import Columns, check_separator, group_of, label_of, pick_columns, texts
from tracerft.data.found import FileReader, Found, FoundSet
from tracerft.data.paths import Root
from tracerft.data.rows import Table, read_table
from tracerft.data.text import first_five, shown
from tracerft.errors import DataError


def read_image_table(
    path: Path,
    root: Root,
    wanted: Mapping[str, str],
    *,
    separator: str | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
) -> FoundSet:
    """The images that a table names, each once.

    Rows that name the same image are one sample with several captions.

    Args:
        path: the table.
        root: where image paths start and what they may not leave.
        wanted: columns by role; see `pick_columns`.
        separator: between several captions in one cell.
        delimiter: see `read_table`.
        encoding: see `read_table`.

    Raises:
        DataError: if the table is unreadable, an image is missing or outside, or labels contradict.
    """
    check_separator(separator)
    table = read_table(path, delimiter=delimiter, encoding=encoding)
    columns = pick_columns(table.columns, wanted, shown(path))
    gather = _Gather(table, root, columns, separator)
    for line, row in table.rows:
        gather.add(line, row)
    return gather.result()


class _Gather:
    def __init__(self, table: Table, root: Root, columns: Columns, separator: str | None) -> None:
        self.table, self.root, self.columns, self.separator = table, root, columns, separator
        self.name = shown(table.path)
        self.found: dict[str, Found] = {}
        self.missing: list[str] = []
        self.rows = self.repeats = 0

    def add(self, line: int, row: Mapping[str, Any]) -> None:
        """Take in one row."""
        self.rows += 1
        where = f"{self.name}, line {line}"
        entry = self._image(self.columns.value("image", row), where)
        if entry is None:
            return
        caption = self.columns.value("caption", row)
        if self.columns.caption is not None:
            for text in texts("" if caption is None else caption, self.separator, where):
                if text in entry.captions:
                    self.repeats += 1
                else:
                    entry.captions.append(text)
        label = label_of(self.columns.value("label", row), where)
        group = group_of(self.columns.value("group", row), where)
        for role, old, new in (("label", entry.label, label), ("group", entry.group, group)):
            if old is not None and new is not None and old != new:
                raise DataError(
                    f"{where}: {shown(entry.name)} has the {role} {shown(old)!r} in {entry.where} and {shown(new)!r} "
                    "here; keep one"
                )
        entry.label = label if entry.label is None else entry.label
        entry.group = group if entry.group is None else entry.group

    def _image(self, value: Any, where: str) -> Found | None:
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{where}: the image must be a path; got {shown(repr(value), 60)}; fill in that cell")
        name = value.strip()
        if "://" in name:
            raise DataError(f"{where}: {shown(name)} is an address; expected a path; download the images first")
        try:
            place = self.root.locate(name) or ("\\" in name and self.root.locate(name.replace("\\", "/"))) or None
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        if place is None:
            self.missing.append(name)
            return None
        key = place[0].replace(os.sep, "/")
        return self.found.setdefault(key, Found(key, place[1], len(self.found), where=where))

    def result(self) -> FoundSet:
        """All images.

        Raises:
            DataError: if there is none, or files are missing.
        """
        if self.missing:
            raise DataError(
                f"{shown(self.table.path)}: {len(self.missing)} of {self.rows} image files are missing in "
                f"{shown(self.root.folder)}: {first_five(self.missing)}; correct the paths, or give their "
                "folder as `root`"
            )
        if not self.found:
            raise DataError(f"{shown(self.table.path)}: a header and no rows; expected one row a sample")
        found = list(self.found.values())
        paths = tuple(os.path.join(self.root.folder, f.name) for f in found)
        warnings = list(self.table.warnings)
        if self.repeats:
            warnings.append(f"{self.repeats} captions repeated for the same image counted once")
        return FoundSet(found, FileReader(paths), warnings=warnings)
