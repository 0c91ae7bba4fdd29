"""Images that only one of start and student gets right, kept small beside the predictions, for the report.

Legend: n images, C classes, k images kept.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tracerft.data.suite import Showing, Split
from tracerft.data.thumbnails import thumbnail
from tracerft.errors import DataError
from tracerft.models.weights import load_tensors, save_tensors

START, END = "pretrained", "student"
FOLDER = "examples"
MOST = 96  # images of all splits together: less than a megabyte of a page, whatever they show


def save_examples(predictions: Path, splits: Mapping[str, Split], each: int) -> None:
    """Keep thumbnails as ``examples/<split>.safetensors``, of each split that is reported and has labels.

    A file holds ``index`` (k,), positions in the split; ``sizes`` (k,), bytes of each JPEG; and ``jpeg``, all of them
    one behind the other. What the models said of an image is in their predictions.

    Args:
        predictions: where the logits of both models on these splits were kept.
        splits: by name.
        each: images of a split that were forgotten, and as many that were learned; fewer where splits are many, so
            that all together are at most `MOST`. With 0 nothing is written.
    """
    shown = [
        (name, split.images)
        for name, split in splits.items()
        if split.labels is not None and isinstance(split.images, Showing) and not name.startswith("select-")
    ][: MOST // 2]
    if not shown or not each:
        return
    each = min(each, MOST // (2 * len(shown)))
    (predictions / FOLDER).mkdir(parents=True, exist_ok=True)
    for name, images in shown:
        start, end = (load_tensors(predictions / model / f"{name}.safetensors") for model in (START, END))
        kept = _thumbnails(images, disagreements(start["logits"], end["logits"], start["labels"], each))
        tensors = {
            "index": torch.tensor(list(kept), dtype=torch.int64),
            "sizes": torch.tensor([len(jpeg) for jpeg in kept.values()], dtype=torch.int64),
            "jpeg": torch.tensor(list(b"".join(kept.values())), dtype=torch.uint8),
        }
        save_tensors(predictions / FOLDER / f"{name}.safetensors", tensors)


def disagreements(start: Tensor, end: Tensor, labels: Tensor, each: int) -> list[int]:
    """Positions of what was forgotten (start right, end wrong), then of what was learned (the other way round).

    Args:
        start: logits ``(n, C)``.
        end: the same shape.
        labels: ``(n,)``.
        each: how many of each kind at most: those whose true class lost, or gained, most confidence, and of equals
            the first.
    """
    before, after = (logits.argmax(1) == labels for logits in (start, end))
    gain = _confidence(end, labels) - _confidence(start, labels)
    found: list[int] = []
    for kind, change in ((before & ~after, -gain), (after & ~before, gain)):
        places = kind.nonzero().flatten()
        found += places[change[places].argsort(descending=True, stable=True)[:each]].tolist()
    return found


def _confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """``(n,)`` softmax probability of the true class."""
    return (logits[torch.arange(len(labels)), labels] - logits.logsumexp(1)).exp()


def _thumbnails(images: Showing, index: list[int]) -> dict[int, bytes]:
    """JPEGs by position. One that can no longer be read is left out: the numbers, which matter more, are there."""
    kept = {}
    for place in index:
        try:
            kept[place] = thumbnail(images.shown(place))
        except DataError:
            continue
    return kept
