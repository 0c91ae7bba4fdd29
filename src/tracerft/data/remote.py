"""Tars in object stores, read by ranges through fsspec: what may be named, and one line for what goes wrong.

Credentials are the store's own: its variables and files. A name holds none.
"""

import io
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

from tracerft.data.text import shown
from tracerft.errors import DataError, MissingExtraError, did_you_mean

# Stores alone, and the package that reads each: nothing that leads to files here, starts a program or unpacks.
STORES = {
    "s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "hf": "huggingface_hub",
    "memory": "fsspec",
}  # fmt: skip
MAX_SHARDS = 100_000
THREADS = 16  # that index: they wait for answers, not for a processor
_BLOCK = 1 << 20  # bytes asked for at once while headers are read
_WAITS = (1.0, 5.0)  # seconds before another try; the packages try again themselves, too
_TAGS = ("ETag", "etag", "md5Hash", "blob_id")  # what stores call the version of an object's content
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
T = TypeVar("T")


@dataclass(frozen=True)
class Stored:
    """An object in a store.

    Args:
        size: bytes.
        tag: of its content, such as an ETag; ``None`` where the store tells none.
    """

    size: int
    tag: str | None


def is_url(place: str) -> bool:
    """Whether a data set is named by a URL and not by a path."""
    return "://" in place


def tar_urls(pattern: str) -> list[str]:
    """The tars that a URL names, in order: ``s3://bucket/shard-{0000..0127}.tar`` are 128.

    Raises:
        DataError: if it is of no store, no plain tar, or names too many.
        MissingExtraError: without the store's package.
    """
    where, store = shown(pattern), pattern.partition("://")[0]
    if store not in STORES or "::" in pattern:
        raise DataError(
            f"{where}: expected a tar in a store ({', '.join(STORES)}), such as s3://bucket/shard-{{0000..0127}}.tar"
            f"{did_you_mean(store, list(STORES))}; name one, or copy the data here"
        )
    if not pattern.endswith(".tar"):
        raise DataError(f"{where}: must end in .tar; compressed tars and folders are not read from a store; name tars")
    _check_package(store, where)
    ranges = [_numbers(low, high, where) for low, high in _BRACES.findall(pattern)]
    count = 1
    for numbers in ranges:
        count *= len(numbers)
    if count > MAX_SHARDS:
        raise DataError(f"{where}: names {count:,} tars, the limit is {MAX_SHARDS:,}; make larger ones")
    return [_filled(pattern, numbers) for numbers in product(*ranges)]


def stat(url: str) -> Stored:
    """Size and tag of an object.

    Raises:
        DataError: one line, if it is not there, is refused, or cannot be asked for.
    """
    info = _asked(url, shown(url), lambda fs, path: fs.info(path))
    tag = next((str(info[name]) for name in _TAGS if info.get(name)), None)
    return Stored(int(info.get("size") or 0), tag)


def read_range(url: str, name: str, offset: int, size: int) -> bytes:
    """Some bytes of an object, by one request.

    Args:
        url: the object.
        name: for messages.
        offset: of the first byte.
        size: how many.

    Raises:
        DataError: as of `stat`, and if the object has become shorter.
    """
    data: bytes = _asked(url, shown(name), lambda fs, path: fs.cat_file(path, start=offset, end=offset + size))
    if len(data) != size:
        raise DataError(f"{shown(name)}: {size} bytes expected, {len(data)} came; the object has changed, start again")
    return data


def opened(url: str, size: int) -> io.BufferedReader:
    """An object as a file, of which a block ahead is asked for at once."""
    return io.BufferedReader(_Ranges(url, size), _BLOCK)


class _Ranges(io.RawIOBase):
    """Reads by `read_range`."""

    def __init__(self, url: str, size: int) -> None:
        self._url, self._size, self._at = url, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        size = max(0, min(len(buffer), self._size - self._at))
        if size:
            buffer[:size] = read_range(self._url, self._url, self._at, size)
        self._at += size
        return size


def _check_package(store: str, where: str) -> None:
    import fsspec

    try:
        fsspec.get_filesystem_class(store)
    except ImportError as error:
        package = STORES[store]
        raise MissingExtraError(
            f"{where}: needs the package {package}; run `pip install {package}`, or copy the data here"
        ) from error


def _numbers(low: str, high: str, where: str) -> list[str]:
    """``0000`` to ``0127``, as wide as they are written."""
    if int(low) > int(high) or int(high) - int(low) >= MAX_SHARDS:
        raise DataError(
            f"{where}: {{{low}..{high}}} must go up and name at most {MAX_SHARDS:,} tars; write such as {{0000..0127}}"
        )
    return [str(number).zfill(len(low)) for number in range(int(low), int(high) + 1)]


def _filled(pattern: str, numbers: tuple[str, ...]) -> str:
    for number in numbers:
        pattern = _BRACES.sub(number, pattern, count=1)
    return pattern


def _asked(url: str, name: str, ask: Callable[[Any, str], T]) -> T:
    """What a store answers; what may pass is asked for again."""
    for wait in (*_WAITS, None):
        try:
            return ask(*_store(url))
        except FileNotFoundError as error:
            raise DataError(f"{name}: no such object in the store; check the name and the numbers in braces") from error
        except Exception as error:  # every store has error types of its own
            text = f"{type(error).__name__}: {shown(error, 100)}"
            if isinstance(error, PermissionError) or "credential" in text.lower():
                raise DataError(
                    f"{name}: the store refuses it ({text}); give it credentials as its own tools take them"
                ) from error
            if wait is None:
                raise DataError(f"{name}: cannot be read from the store ({text}); check it, and start again") from error
            time.sleep(wait)
    raise AssertionError  # the last wait is None


def _store(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path in it; each thread and each forked process has one of its own, kept."""
    import fsspec

    found: tuple[Any, str] = fsspec.core.url_to_fs(url)
    return found
