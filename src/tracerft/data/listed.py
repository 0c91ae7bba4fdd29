"""A benchmark split as a list: image files, labels, and how a head's logits become those of the scored classes.

Legend: n images, H classes the head knows, C classes scored. Imports `errors` and its neighbours only; opens no image.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tracerft.data.paths import is_image_name
from tracerft.data.text import first_five
from tracerft.errors import ArgumentError, DataError, ShapeError


@dataclass(frozen=True)
class LogitMap:
    """From the logits of H known classes to those of C scored classes: before any softmax, by the largest.

    Args:
        width: H.
        sources: for each scored class the known classes that mean it; ``None`` scores all H as they are.

    Raises:
        ArgumentError: if a scored class has no source, or a source is not in [0, H).

    Example:
        >>> LogitMap(3, ((2,), (0, 1)))(torch.tensor([[1.0, 5.0, 3.0]]))
        tensor([[3., 5.]])
    """

    width: int
    sources: tuple[tuple[int, ...], ...] | None = None

    def __post_init__(self) -> None:
        for scored, known in enumerate(self.sources or ()):
            if not known or min(known) < 0 or max(known) >= self.width:
                raise ArgumentError(
                    f"`sources` must give class {scored} indices in [0, {self.width}); got {list(known)}; "
                    "check the mapping"
                )

    @property
    def num_classes(self) -> int:
        """C."""
        return self.width if self.sources is None else len(self.sources)

    def __call__(self, logits: Tensor) -> Tensor:
        """Logits of the scored classes.

        Args:
            logits: ``(n, H)``.

        Returns:
            ``(n, C)``; the very same tensor for the identity.

        Raises:
            ShapeError: if the width is another than H.
        """
        if logits.ndim != 2 or logits.shape[1] != self.width:
            raise ShapeError(
                f"`logits` must be (n, {self.width}); got {tuple(logits.shape)}; "
                "build the head from the split's `head_classes`"
            )
        if self.sources is None:
            return logits
        longest = max(len(known) for known in self.sources)
        # Short rows repeat their first entry, which leaves the largest as it is.
        index = torch.tensor([[*known, *[known[0]] * (longest - len(known))] for known in self.sources])
        return logits[:, index.to(logits.device)].amax(dim=2)  # (n, C, longest)


@dataclass(frozen=True, eq=False)
class ListedSplit:
    """A published benchmark on disk.

    Args:
        name: the builder's name.
        paths: n image files.
        labels: ``(n,)`` ids of scored classes, in [0, C).
        head_classes: the H class names a zero-shot head is built from.
        logit_map: from the head's logits to those of the C scored classes.
        class_names: of the C scored classes.
        metric: the one that is published: ``top1``, ``macro_f1`` or ``worst_group``.
        groups: the group of each image, if there are any.
        ignored_groups: groups that cannot be the worst.
        border: pixels to cut from every side before anything else (see `crop_border`).
        published: number of images of the whole benchmark, if it is known.
    """

    name: str
    paths: tuple[Path, ...]
    labels: NDArray[np.int64]
    head_classes: tuple[str, ...]
    logit_map: LogitMap
    class_names: tuple[str, ...]
    metric: str = "top1"
    groups: tuple[str, ...] | None = None
    ignored_groups: tuple[str, ...] = ()
    border: int = 0
    published: int | None = None

    def __len__(self) -> int:
        """Number of images n."""
        return len(self.paths)

    @property
    def shortfall(self) -> str | None:
        """What to warn of when this is not the whole benchmark."""
        if self.published is None or len(self) == self.published:
            return None
        return f"{self.name} has {len(self)} images, the published set {self.published}: not comparable as it is"


def crop_border(image: Image.Image, pixels: int) -> Image.Image:
    """The image without ``pixels`` on each side (ObjectNet frames its images in red).

    Raises:
        DataError: if nothing would be left.
    """
    width, height = image.size
    if min(width, height) <= 2 * pixels:
        raise DataError(f"an image of {width} x {height} has nothing left without {pixels} px a side; check the file")
    return image.crop((pixels, pixels, width - pixels, height - pixels)) if pixels else image


def class_folders(folder: Path) -> dict[str, list[Path]]:
    """Image files of each class folder, both sorted by name; hidden entries are left out.

    Raises:
        DataError: if there is no class folder, or one has no image.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give the folder that holds one folder a class")
    found = {
        entry.name: sorted(f for f in entry.iterdir() if is_image_name(f.name) and not f.name.startswith("."))
        for entry in sorted(folder.iterdir())
        if entry.is_dir() and not entry.name.startswith(".")
    }
    if not found:
        raise DataError(f"{folder} has no class folders; give the folder that holds one folder a class")
    empty = [name for name, files in found.items() if not files]
    if empty:
        raise DataError(f"{folder}: no image in class folder {first_five(empty)}; complete or remove it")
    return found
