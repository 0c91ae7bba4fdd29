"""Predictions of a finished run, ``predictions/<model>/<split>.safetensors``, as answers, and bins of their confidence.

numpy and safetensors are loaded on first use; logits are read in pieces, so a large test set needs little memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tracerft.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PIECE = 4096  # rows of logits at a time
BINS = 10


@dataclass(frozen=True)
class Predicted:
    """What one model answered on one labelled split of n images and C classes.

    Args:
        guesses: ``(n,)`` likeliest class.
        confidences: ``(n,)`` its softmax probability, in (0, 1].
        labels: ``(n,)`` true class, in [0, C).
        num_classes: C.
    """

    guesses: "NDArray[np.int64]"
    confidences: "NDArray[np.float64]"
    labels: "NDArray[np.int64]"
    num_classes: int


@dataclass(frozen=True)
class Bin:
    """One bin of confidence: share of the images in it, their mean confidence and accuracy, all in [0, 1]."""

    share: float
    confidence: float
    accuracy: float
    n: int


def read_predicted(path: Path) -> Predicted | None:
    """Read one file of predictions; ``None`` if there is none, or it holds embeddings for retrieval.

    Raises:
        DataError: if the file is damaged, or labels and logits do not fit.
    """
    import numpy as np
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    cure = "restore it, or delete the folder `predictions` to have a report without them"
    try:
        with safe_open(path, framework="numpy") as file:
            if not {"logits", "labels"} <= set(file.keys()):
                return None
            labels, logits = file.get_tensor("labels").astype(np.int64), file.get_slice("logits")
            n, num_classes = logits.get_shape()
            pieces = [_answers(logits[start : min(start + PIECE, n)]) for start in range(0, n, PIECE)]
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{path}: not a whole file of predictions ({error}); {cure}") from None
    if n == 0 or labels.shape != (n,) or labels.min() < 0 or labels.max() >= num_classes:
        raise DataError(f"{path}: `labels` must be {n} numbers from 0 to {num_classes - 1}; got others; {cure}")
    guesses, confidences = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    return Predicted(guesses, confidences, labels, num_classes)


def binned(sets: Sequence[Predicted]) -> list[Bin]:
    """Ten bins of equal width, [low, high) and the last closed; of several sets each counts the same.

    Args:
        sets: at least one. The sum of share x |accuracy - confidence| over the bins of one set is its expected
            calibration error (Guo et al. 2017, equation 3).

    Returns:
        The bins that hold an image, by rising confidence.
    """
    import numpy as np

    sums = np.zeros((4, BINS))  # share, confidence, hits (each weighted), count
    for found in sets:
        place = np.minimum((found.confidences * BINS).astype(np.int64), BINS - 1)
        weight = 1.0 / (len(place) * len(sets))
        for row, values in enumerate((None, found.confidences, found.guesses == found.labels)):
            sums[row] += weight * np.bincount(place, values, BINS)
        sums[3] += np.bincount(place, minlength=BINS)
    columns = sums.T.tolist()
    return [Bin(share, conf / share, hits / share, int(n)) for share, conf, hits, n in columns if n]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Sum over bins of share x |accuracy - confidence|, in [0, 1]."""
    return sum(b.share * abs(b.accuracy - b.confidence) for b in bins)


def _answers(logits: "NDArray[np.float32]") -> "tuple[NDArray[np.int64], NDArray[np.float64]]":
    """Likeliest class and its softmax probability of each row, in the precision of the logits but at least fp32."""
    import numpy as np

    wide = logits.astype(np.promote_types(logits.dtype, np.float32))
    # The largest term of the softmax is exp(0) = 1.
    confidences = 1.0 / np.exp(wide - wide.max(axis=1, keepdims=True)).sum(axis=1)
    return wide.argmax(axis=1), confidences.astype(np.float64)
