"""Images in tar files, read where they lie: headers once, then by offset; nothing is ever unpacked.

Members that share a stem are one sample, as webdataset writes them: ``000.jpg`` with ``000.txt``,
``000.json`` or ``000.cls``.
"""

import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracerft.data.columns import GROUP, check_separator, group_of, label_of, pick_columns, texts
from tracerft.data.found import Found, FoundSet
from tracerft.data.paths import IMAGE_SUFFIXES, MAX_FILE_BYTES, Root, read_file
from tracerft.data.rows import decode_text, json_object
from tracerft.data.text import first_five, shown
from tracerft.errors import DataError

TAR_SUFFIXES = (".tar",)
COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_MAX_NOTE_BYTES = 1 << 20  # a caption or label of 1 MiB is a mistake or an attack
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar: where its bytes are."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class TarReader:
    """Images inside tars.

    Args:
        tars: the files.
        places: tar, offset and size, one a row.
    """

    tars: tuple[str, ...]
    places: tuple[tuple[int, int, int], ...]

    def read(self, at: int, name: str) -> bytes:
        """The member's bytes."""
        tar, offset, size = self.places[at]
        return read_file(self.tars[tar], name, offset, size)


def index_tar(path: Path) -> list[Member]:
    """Every regular, visible file of a tar, from its headers.

    Raises:
        DataError: if the tar is compressed, damaged or truncated, or a member is a link, a device, too
            large, or named outside of the archive.
    """
    where = shown(path)
    members: list[Member] = []
    end = 0
    try:
        size = os.path.getsize(path)
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                end = info.offset_data + -(-info.size // _BLOCK) * _BLOCK
                if end > size:
                    raise DataError(f"{where}: truncated inside {shown(info.name)}; get the file again")
                if _wanted(info, where):
                    members.append(Member(info.name, info.offset_data, info.size))
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
    except DataError:
        raise
    except (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError, EOFError) as error:
        hint = _compression(path)
        raise DataError(f"{where}: not a whole tar ({shown(error, 80)}){hint}; get the file again") from error
    if read_file(str(path), where, end, min(_BLOCK, max(size - end, 0))) != bytes(_BLOCK):
        raise DataError(
            f"{where}: truncated or damaged at byte {end}, where a header or the end should be; get it again"
        )
    return members


def _compression(path: Path) -> str:
    try:
        with path.open("rb") as file:
            head = file.read(6)
    except OSError:
        return ""
    packed = any(head.startswith(magic) for magic in (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))
    return ", it is compressed and so has no random access: unpack to a plain .tar (gunzip)" if packed else ""


def _wanted(info: tarfile.TarInfo, where: str) -> bool:
    """Whether a member is a visible file; raises for what no data set should hold."""
    name = shown(info.name)
    parts = info.name.replace("\\", "/").split("/")
    if info.name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
        raise DataError(f"{where}: the member {name} is named outside of the archive; make the tar again without it")
    if info.isdir():
        return False
    if info.issym() or info.islnk():
        raise DataError(f"{where}: the member {name} is a link; make the tar again with --dereference")
    if not info.isreg() or info.issparse():
        raise DataError(
            f"{where}: the member {name} is no plain file (device, pipe or sparse); make the tar without it"
        )
    if info.size > MAX_FILE_BYTES:
        raise DataError(
            f"{where}: the member {name} has {info.size >> 20} MiB, the limit is {MAX_FILE_BYTES >> 20}; leave it out"
        )
    return not parts[-1].startswith(".")


def read_tars(
    paths: Sequence[Path], wanted: Mapping[str, str], *, separator: str | None = None, encoding: str | None = None
) -> FoundSet:
    """The samples of one or more tars, in order.

    Args:
        paths: the tars.
        wanted: keys of the ``.json`` members by role; see `pick_columns`.
        separator: between several captions in one text.
        encoding: of ``.txt`` members.

    Raises:
        DataError: if a tar is refused (see `index_tar`), or a sample has two images or a bad caption.
    """
    check_separator(separator)
    found: list[Found] = []
    places: list[tuple[int, int, int]] = []
    warnings: dict[str, int] = {}
    for number, path in enumerate(paths):
        notes = _Notes(path, wanted, separator, encoding)
        for stem, group in _groups(path):
            image = _image_of(group, f"{shown(path)}, sample {shown(stem)}")
            if image is None:
                warnings["samples without an image ignored"] = warnings.get("samples without an image ignored", 0) + 1
                continue
            name = f"{path.name}/{image.name}"
            entry = Found(name, image.size, len(places), where=f"{shown(path)}, {shown(image.name)}")
            notes.fill(entry, group)
            found.append(entry)
            places.append((number, image.offset, image.size))
    if not found:
        raise DataError(f"{first_five(paths)}: no images; expected members such as 000.jpg with 000.txt or 000.cls")
    reader = TarReader(tuple(str(p) for p in paths), tuple(places))
    return FoundSet(found, reader, warnings=[f"{count} {what}" for what, count in warnings.items()])


def _groups(path: Path) -> Iterator[tuple[str, dict[str, Member]]]:
    """Members by stem (up to the first dot of the last part) and ending, in the order of the archive."""
    groups: dict[str, dict[str, Member]] = {}
    for member in index_tar(path):
        folder, _, last = member.name.rpartition("/")
        stem, _, ending = last.partition(".")
        group = groups.setdefault(f"{folder}/{stem}" if folder else stem, {})
        if group.setdefault(ending.lower(), member) is not member:
            raise DataError(f"{shown(path)}: two members are named {shown(member.name)}; make the tar again with one")
    yield from groups.items()


def _image_of(group: Mapping[str, Member], where: str) -> Member | None:
    images = [member for ending, member in group.items() if f".{ending}".endswith(IMAGE_SUFFIXES)]
    if len(images) > 1:
        raise DataError(f"{where}: has {len(images)} images ({first_five(m.name for m in images)}); keep one a stem")
    return images[0] if images else None


@dataclass
class _Notes:
    """Reads the small members beside an image."""

    path: Path
    wanted: Mapping[str, str]
    separator: str | None
    encoding: str | None
    _seen: dict[tuple[str, ...], Any] = field(default_factory=dict)

    def fill(self, entry: Found, group: Mapping[str, Member]) -> None:
        """Captions, label and group of ``entry`` from ``.txt``, ``.json`` and ``.cls``."""
        if "json" in group:
            where = f"{shown(self.path)}, {shown(group['json'].name)}"
            row = json_object(self._read(group["json"], where), where)
            roles = [r for r, ending in (("caption", "txt"), ("label", "cls")) if ending not in group]
            header = tuple(row)
            if header not in self._seen:
                self._seen[header] = self._columns(header, where, roles)
            columns = self._seen[header]
            if columns is not None and columns.caption is not None:
                entry.captions = texts(columns.value("caption", row), self.separator, where)
            if columns is not None:
                entry.label = label_of(columns.value("label", row), where)
            if GROUP in self.wanted:
                entry.group = group_of(row.get(self.wanted[GROUP]), where)
        if "txt" in group:
            entry.captions = texts(self._text(group["txt"]), self.separator, entry.where)
        if "cls" in group:
            label = self._text(group["cls"]).strip()
            entry.label = int(label) if label.isascii() and label.isdigit() and len(label) < 10 else label or None

    def _columns(self, header: tuple[str, ...], where: str, roles: list[str]) -> Any:
        chosen = {role: name for role, name in self.wanted.items() if role in roles}
        if not roles:
            return None
        try:
            return pick_columns(header, chosen, where, roles)
        except DataError:
            if chosen or len(roles) == 2:
                raise
            return None  # the other member says what there is to say

    def _text(self, member: Member) -> str:
        where = f"{shown(self.path)}, {shown(member.name)}"
        return decode_text(self._read(member, where), where, self.encoding)[0]

    def _read(self, member: Member, where: str) -> bytes:
        if member.size > _MAX_NOTE_BYTES:
            raise DataError(
                f"{where}: {member.size >> 10} KiB of text, the limit is {_MAX_NOTE_BYTES >> 10}; shorten it"
            )
        return read_file(str(self.path), where, member.offset, member.size)


def tars_in(folder: Path, root: Root) -> list[Path]:
    """The visible tars directly in a folder, sorted; links are followed inside ``root``."""
    names = sorted(p.name for p in folder.iterdir() if p.name.lower().endswith(TAR_SUFFIXES) and p.name[0] != ".")
    paths = [folder / name for name in names]
    for path in paths:
        root.inside(os.path.realpath(path), str(path))
    return paths
