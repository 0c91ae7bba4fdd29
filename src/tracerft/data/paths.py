"""Files below one folder: nothing outside of it is ever opened."""

import os
import stat
from functools import lru_cache
from pathlib import Path

from tracerft.data.text import shown
from tracerft.errors import DataError

MAX_FILE_BYTES = 1 << 28  # an encoded image of 256 MiB is a mistake or an attack
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")


def is_image_name(name: str) -> bool:
    """Whether the ending is one of `IMAGE_SUFFIXES`."""
    return name.lower().endswith(IMAGE_SUFFIXES)


class Root:
    """A folder that paths and links may not leave.

    Args:
        folder: links in its own path are followed; it must exist.

    Raises:
        DataError: if it is not a folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DataError(f"{shown(folder)}: not a folder; expected the folder that the image paths start from")
        self.folder = os.path.realpath(folder)
        self._below = os.path.join(self.folder, "")
        self._real_folder = lru_cache(maxsize=4096)(os.path.realpath)

    def holds(self, real: str) -> bool:
        """Whether a resolved path is the folder or below it."""
        return real == self.folder or real.startswith(self._below)

    def inside(self, real: str, name: str) -> str:
        """``real`` itself.

        Raises:
            DataError: if it is outside.
        """
        if not self.holds(real):
            raise DataError(
                f"{shown(name)}: leads out of {shown(self.folder)}; expected files below it; copy the files there, or "
                "give the folder that holds them all as `root`"
            )
        return real

    def locate(self, name: str) -> tuple[str, int] | None:
        """Find a file by its path relative to the folder (or absolute, if that is below the folder).

        Returns:
            The path relative to the folder and the size in bytes, or ``None`` if there is no such
            regular file.

        Raises:
            DataError: if the path leads out of the folder, by ``..``, an absolute path or a link.
        """
        if "\0" in name:
            return None
        head, tail = os.path.split(os.path.join(self.folder, name))
        try:
            real = os.path.join(self._real_folder(head), tail)
            if tail in ("", ".", "..") or os.path.islink(real):
                real = os.path.realpath(real)
            self.inside(real, name)
            found = os.stat(real)
        except (OSError, UnicodeError):  # missing, a loop of links, a name too long or of no bytes, not readable
            return None
        return (real[len(self._below) :], found.st_size) if stat.S_ISREG(found.st_mode) else None


def read_file(path: str, name: str, offset: int = 0, size: int | None = None) -> bytes:
    """The bytes of a file, or ``size`` of them from ``offset`` on.

    Raises:
        DataError: if it cannot be read, is too large, or has become shorter.
    """
    try:
        with open(path, "rb") as file:
            length = os.fstat(file.fileno()).st_size if size is None else size
            if length > MAX_FILE_BYTES:
                raise DataError(
                    f"{shown(name)}: {length >> 20} MiB encoded, the limit is {MAX_FILE_BYTES >> 20} MiB; take it out"
                )
            file.seek(offset)
            data = file.read(length)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{shown(name)}: cannot be read ({reason}); check that the file is there") from error
    if len(data) < length:
        raise DataError(f"{shown(name)}: {length} bytes expected, {len(data)} read; the file has changed, start again")
    return data
