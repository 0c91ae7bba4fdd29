"""One writer for a run folder: a lock that the system lets go of whatever ends the process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tracerft.errors import RunFolderError

try:
    import fcntl
except ImportError:  # Windows has none; there nobody is kept out
    fcntl = None  # type: ignore[assignment]


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep every other process out of a folder while this lasts.

    The lock is on the folder itself, so that nothing of it stays behind.

    Raises:
        RunFolderError: if another process holds it.

    Note:
        A file system without locks (some of those on a network) keeps nobody out.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunFolderError(
            f"{folder}: another process is writing this run; let it finish, or stop it and go on with "
            f"`tracerft finetune --resume {folder}`"
        ) from None
    except OSError:  # no locks here
        return
