"""Pictures of what a run forgot and learned, from the thumbnails and predictions that the evaluation kept."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tracerft.errors import DataError
from tracerft.reports.blocks import Album, Albums, Picture
from tracerft.reports.predicted import Predicted
from tracerft.reports.tables import number

_JPEG = b"\xff\xd8\xff"
Pair = tuple[Predicted, Predicted]  # of the pretrained model and of the student


def example_sections(folder: Path, pairs: Mapping[str, Pair], classes: Mapping[str, Sequence[str]]) -> list[Albums]:
    """Section "Examples"; none where no thumbnails were kept.

    Args:
        folder: ``predictions/examples`` of a run.
        pairs: what both models answered, by split.
        classes: names of the classes by id, of each split.

    Raises:
        DataError: if a file is damaged.
    """
    albums = []
    for split, pair in pairs.items():
        kept = read_thumbnails(folder / f"{split}.safetensors", len(pair[0].labels))
        rows = _rows(kept, pair, classes[split])
        if rows:
            albums.append(Album(split, rows))
    note = (
        "Test images that only one of both models gets right, those whose true class lost or gained most confidence: "
        "the largest changes, not typical ones. They are shown as the models see them."
    )
    return [Albums("Examples", note, albums)] if albums else []


def read_thumbnails(path: Path, n: int) -> dict[int, bytes]:
    """JPEGs by position in a split of n images, in the order of the file; none if there is no file.

    Raises:
        DataError: if the file is damaged or of other images.
    """
    import numpy as np
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return {}
    try:
        with safe_open(path, framework="numpy") as file:
            index, sizes, jpeg = (file.get_tensor(name) for name in ("index", "sizes", "jpeg"))
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, str(error)) from None
    counts = index.dtype == sizes.dtype == np.int64 and index.ndim == 1 and index.shape == sizes.shape
    if not counts or jpeg.dtype != np.uint8 or np.any((index < 0) | (index >= n)):
        raise _damaged(path, f"positions of other than {n} images")
    ends, data = sizes.cumsum().tolist(), jpeg.tobytes()
    parts = [data[end - size : end] for end, size in zip(ends, sizes.tolist(), strict=True)]
    if sum(map(len, parts)) != len(data) or not all(part.startswith(_JPEG) for part in parts):
        raise _damaged(path, "what it holds is no JPEG")
    return dict(zip(index.tolist(), parts, strict=True))


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(
        f"{path}: not a whole file of example images ({reason}); restore it, or delete the folder `examples` to have a "
        "report without them"
    )


def _rows(kept: Mapping[int, bytes], pair: Pair, classes: Sequence[str]) -> dict[str, list[Picture]]:
    """What was forgotten and what was learned, under headings that tell of how many."""
    before, after = (found.guesses == found.labels for found in pair)
    kinds = {
        "Forgotten: pretrained right, student wrong": before & ~after,
        "Learned: pretrained wrong, student right": after & ~before,
    }
    rows = {}
    for title, kind in kinds.items():
        shown = [place for place in kept if kind[place]]
        if shown:
            heading = f"{title} ({len(shown)} of {int(kind.sum())})"
            rows[heading] = [Picture(kept[place], _lines(place, pair, classes)) for place in shown]
    return rows


def _lines(place: int, pair: Pair, classes: Sequence[str]) -> list[str]:
    """The true class, and what each model said how surely."""
    said = [
        f"{name}: {classes[found.guesses[place]]}, {number(100 * found.confidences[place], 0)}\N{NO-BREAK SPACE}%"
        for name, found in zip(("pretrained", "student"), pair, strict=True)
    ]
    return [classes[pair[0].labels[place]], *said]
