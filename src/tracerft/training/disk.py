"""What a disk that refuses means for the user, in one line."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from tracerft.errors import RunFolderError, TracerftError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def refusals_told(folder: Path) -> Iterator[None]:
    """Turn what the disk says while a run writes into `folder` into one line.

    Raises:
        RunFolderError: if the disk is full or the folder closed to writing; other errors pass.
    """
    try:
        yield
    except TracerftError:
        raise
    except SafetensorError as error:  # reading is done by `load_tensors`, which tells its own
        raise _refused(folder, str(error), "make room there") from error
    except OSError as error:
        outside = error.filename is not None and not Path(error.filename).is_relative_to(folder)
        if outside or error.errno not in FULL + CLOSED:
            raise
        cure = "make room there" if error.errno in FULL else "make it writable"
        raise _refused(folder, str(error.strerror), cure) from error


def _refused(folder: Path, reason: str, cure: str) -> RunFolderError:
    return RunFolderError(
        f"{folder}: cannot be written ({reason}); the last checkpoint is untouched; {cure}, then go on with "
        f"`tracerft finetune --resume {folder}`"
    )
