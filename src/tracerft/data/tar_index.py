"""What a tar holds and where, from its headers; small texts are read on the way, so that it is gone through once."""

import tarfile
from contextlib import closing
from dataclasses import dataclass
from typing import BinaryIO

from tracerft.data import remote
from tracerft.data.paths import MAX_FILE_BYTES
from tracerft.data.text import shown
from tracerft.errors import DataError

TAR_SUFFIXES = (".tar",)
COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
NOTES = ("txt", "json", "cls")  # endings of what is said of an image
MAX_NOTE_BYTES = 1 << 20  # a caption or label of 1 MiB is a mistake or an attack
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar: where its bytes are, and for a note what they are.

    Args:
        name: in the tar.
        offset: of the first byte.
        size: in bytes.
        text: of a note; ``None`` of others, and of one above `MAX_NOTE_BYTES`.
    """

    name: str
    offset: int
    size: int
    text: bytes | None = None


def index_tar(place: str) -> tuple[list[Member], str | None]:
    """Every regular, visible file of a tar, from its headers.

    Args:
        place: a path, or the URL of an object in a store.

    Returns:
        The members, and what the store calls the version of the tar; ``None`` of a file.

    Raises:
        DataError: if the tar is compressed, damaged or truncated, or a member is a link, a device, too
            large, or named outside of the archive.
    """
    where, tag = shown(place), None
    try:
        if remote.is_url(place):
            stored = remote.stat(place)
            tag, file = stored.tag, remote.opened(place, stored.size)
        else:
            file = open(place, "rb")  # noqa: SIM115  # closed below
        with closing(file):
            return _members(file, where), tag
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{where}: not a whole tar ({shown(error, 80)}); get the file again") from error


def split_name(name: str) -> tuple[str, str]:
    """What members of one sample share, up to the first dot of the last part, and the ending in small letters."""
    folder, _, last = name.rpartition("/")
    stem, _, ending = last.partition(".")
    return f"{folder}/{stem}" if folder else stem, ending.lower()


def _members(file: BinaryIO, where: str) -> list[Member]:
    members: list[Member] = []
    end, size = 0, file.seek(0, 2)
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                end = info.offset_data + -(-info.size // _BLOCK) * _BLOCK
                if end > size:
                    raise DataError(f"{where}: truncated inside {shown(info.name)}; get the file again")
                if _wanted(info, where):
                    members.append(Member(info.name, info.offset_data, info.size, _note(file, info)))
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
    except DataError:
        raise
    except (tarfile.TarError, ValueError, OverflowError, RecursionError, EOFError) as error:
        hint = _compression(file)
        raise DataError(f"{where}: not a whole tar ({shown(error, 80)}){hint}; get the file again") from error
    file.seek(end)
    if file.read(_BLOCK) != bytes(_BLOCK):
        raise DataError(
            f"{where}: truncated or damaged at byte {end}, where a header or the end should be; get it again"
        )
    return members


def _note(file: BinaryIO, info: tarfile.TarInfo) -> bytes | None:
    if info.size > MAX_NOTE_BYTES or split_name(info.name)[1] not in NOTES:
        return None
    file.seek(info.offset_data)
    return file.read(info.size)


def _compression(file: BinaryIO) -> str:
    file.seek(0)
    head = file.read(6)
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
