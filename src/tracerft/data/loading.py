"""Images of a manifest, decoded by a few threads and kept while there is room."""

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from PIL import Image

from tracerft.data.images import decode
from tracerft.data.manifest import Manifest
from tracerft.data.threads import default_threads
from tracerft.errors import DataError

CACHE_BYTES = 1 << 30
_BYTES_A_PIXEL = 4  # how Pillow keeps RGB
T = TypeVar("T")
U = TypeVar("U")


class Loader:
    """Decoded images by position; safe to use from threads, forked and spawned processes.

    Args:
        manifest: the images.
        threads: that decode; Pillow lets go of the interpreter while it works.
        cache_bytes: decoded images are kept up to this many bytes, since epochs repeat; 0 keeps none.
    """

    def __init__(self, manifest: Manifest, *, threads: int | None = None, cache_bytes: int = CACHE_BYTES) -> None:
        self.manifest = manifest
        self.threads = default_threads() if threads is None else max(1, threads)
        self.room = cache_bytes
        self._kept: dict[int, Image.Image] = {}
        self._lock = threading.Lock()
        self._pool: tuple[int, ThreadPoolExecutor] | None = None

    def image(self, index: int) -> Image.Image:
        """The upright RGB image; do not change it.

        Raises:
            DataError: naming the file, if it cannot be decoded.
        """
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        sample = self.manifest.samples[index]
        image = decode(self.manifest.read(index), sample.name)
        size = image.width * image.height * _BYTES_A_PIXEL
        with self._lock:
            if size <= self.room and index not in self._kept:
                self.room -= size
                self._kept[index] = image
        return image

    def broken(self, index: int) -> str | None:
        """Why an image cannot be decoded, or ``None``."""
        try:
            self.image(index)
        except DataError as error:
            return str(error)
        return None

    def map(self, function: Callable[[T], U], items: Iterable[T]) -> list[U]:
        """``function`` of every item, in order, by the threads."""
        if self.threads == 1:
            return [function(item) for item in items]
        if self._pool is None or self._pool[0] != os.getpid():  # threads do not survive a fork
            self._pool = (os.getpid(), ThreadPoolExecutor(self.threads, thread_name_prefix="tracerft-images"))
        return list(self._pool[1].map(function, items))

    def __getstate__(self) -> dict[str, Any]:
        return {"manifest": self.manifest, "threads": self.threads, "cache_bytes": self.room}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state.pop("manifest"), **state)  # type: ignore[misc]
