"""A suite: what is in distribution, and named shifts from it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tracerft.data.digits import DigitSet, Task, load_digits


class Split(Protocol):
    """Labelled images and one caption a class."""

    @property
    def captions(self) -> Sequence[str]:
        """One caption for each of C classes."""
        ...

    @property
    def labels(self) -> NDArray[np.int64]:
        """``(n,)`` class ids."""
        ...

    @property
    def sha256(self) -> str:
        """Hash of images and labels."""
        ...

    def __len__(self) -> int:
        """N."""
        ...

    def image_batches(self) -> Iterator[Tensor]:
        """All images in order, ``(N, 3, H, W)`` at a time."""
        ...


@dataclass(frozen=True)
class Suite:
    """What a model is evaluated on.

    Args:
        id: the test split of the task that was finetuned.
        shifts: other test splits, by name.
        selection: held-out training data, never trained on and never reported as a result; choices
            between settings are made here.
    """

    id: Split
    shifts: Mapping[str, Split]
    selection: Mapping[str, Split] = field(default_factory=dict)

    def splits(self) -> dict[str, Split]:
        """Every split by its name in a record; selection splits are called ``select-<name>``."""
        return {"id": self.id, **self.shifts, **{f"select-{name}": s for name, s in self.selection.items()}}


def digit_suite(folder: Path | None, task: Task, held_out: DigitSet | None) -> Suite:
    """The test splits of a digit task.

    Args:
        folder: MNIST IDX files, ``None`` for the embedded digits.
        task: what was trained; a coloured task is tested with its colours (``id``), in grey with ten
            captions (``original``), with colour at random and with colour flipped.
        held_out: training digits kept out for selection, shown as the task shows them.
    """
    test = load_digits(folder, "test")
    if task == "grey":
        return Suite(DigitSet(test, "grey"), {}, {} if held_out is None else {"id": held_out})
    shifts: dict[str, Split] = {
        "original": DigitSet(test, "grey"),
        "colour-random": DigitSet(test, task, agreement=0.5),
        "colour-flipped": DigitSet(test, task, agreement=0.0),
    }
    selection: dict[str, Split] = {}
    if held_out is not None:
        selection = {"id": held_out, "original": DigitSet(held_out.digits, "grey")}
    return Suite(DigitSet(test, task), shifts, selection)
