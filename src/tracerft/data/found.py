"""What a source found, before labels and captions are checked: the one shape that all sources share."""

from dataclasses import dataclass, field
from typing import Protocol

from tracerft.data.paths import read_file
from tracerft.data.text import first_five, shown
from tracerft.errors import DataError


class Reader(Protocol):
    """Where the encoded images are."""

    def read(self, at: int, name: str) -> bytes:
        """The encoded image at a row; ``name`` is for messages. Safe to call from several threads."""
        ...


@dataclass(slots=True)
class Found:
    """One image.

    Args:
        name: path relative to the data set; identifies the sample.
        size: encoded bytes.
        at: the reader's row.
        captions: as written.
        label: class name or number as written, ``None`` if there is none.
        where: for messages, such as ``line 7``.
        group: that its accuracy is counted in, ``None`` if there is none.
    """

    name: str
    size: int
    at: int
    captions: list[str] = field(default_factory=list)
    label: str | int | None = None
    where: str = ""
    group: str | None = None


@dataclass
class FoundSet:
    """All images of a source.

    Args:
        found: in the source's order.
        reader: reads them.
        declared: class names in the source's own order, if it has one.
        ordered: whether class names may be given by position (class folders, sorted).
        warnings: counted things a user should know.
        tags: what a store calls the versions of the files, if it does.
    """

    found: list[Found]
    reader: Reader
    declared: tuple[str, ...] | None = None
    ordered: bool = False
    warnings: list[str] = field(default_factory=list)
    tags: tuple[str, ...] = ()


def check_groups(data: FoundSet, column: str, where: str) -> None:
    """Refuse a source in which not every image has a group.

    Args:
        data: what was found.
        column: that should name the groups.
        where: the source, for messages.

    Raises:
        DataError: naming the images.
    """
    bare = [entry.where for entry in data.found if entry.group is None]
    if bare and data.ordered:
        raise DataError(
            f"{where}: class folders have no column {shown(column)!r} to name the groups; give a table (CSV, TSV or "
            "JSON lines) with the image, label and group of each row"
        )
    if bare:
        raise DataError(
            f"{where}: {len(bare)} of {len(data.found)} images have no group in the column {shown(column)!r}: "
            f"{first_five(bare)}; fill it in"
        )


@dataclass(frozen=True)
class FileReader:
    """Images as files.

    Args:
        paths: one a row.
    """

    paths: tuple[str, ...]

    def read(self, at: int, name: str) -> bytes:
        """The file's bytes."""
        return read_file(self.paths[at], name)
