"""iWildCam and FMoW in the layout that the WILDS benchmark downloads, without its package.

Imports `errors` and its neighbours only; opens no image.
"""

import csv
from pathlib import Path

import numpy as np

from tracerft.data.listed import ListedSplit, LogitMap
from tracerft.data.text import first_five, shown
from tracerft.errors import DataError, one_of

SPLITS = ("train", "val", "test", "id_val", "id_test")
# Categories with this label occur in the competition's list but not in the benchmark.
NO_LABEL = 99999
OTHER_REGION = "Other"


def iwildcam(folder: Path, split: str = "test") -> ListedSplit:
    """Camera traps (iWildCam 2.0 of WILDS); the published metric is macro-F1.

    Args:
        folder: holds ``metadata.csv``, the images in ``train/``, and names in ``labels.csv`` (``y``, ``english``)
            or ``categories.csv`` (``y``, ``name``).
        split: train, val, test (new cameras), id_val or id_test.

    Raises:
        DataError: if a file is missing or not as published.
    """
    one_of("split", split, SPLITS)
    folder = Path(folder)
    names = _iwildcam_names(folder)
    rows = [row for row in _table(folder / "metadata.csv", "split", "filename", "y") if row["split"] == split]
    labels = [_label(row["y"], folder / "metadata.csv") for row in rows]
    wrong = sorted({str(label) for label in labels if not 0 <= label < len(names)})
    if wrong:
        raise DataError(f"{folder / 'metadata.csv'}: label {first_five(wrong)} has no name; check the table of names")
    return _split(
        "iwildcam", folder, split, [folder / "train" / r["filename"] for r in rows], labels, names, "macro_f1"
    )


def fmow(folder: Path, split: str = "test") -> ListedSplit:
    """Satellite images (FMoW 1.1 of WILDS); out of distribution the published metric is the worst region.

    Training images are from before 2013, ``val`` from 2013 to 2015, ``test`` from 2016 on; ``id_val`` and
    ``id_test`` are held-out images of the training years. The region ``Other`` is never the worst, as published.

    Args:
        folder: holds ``rgb_metadata.csv``, ``country_code_mapping.csv`` and ``images/``.
        split: train, val, test, id_val or id_test.

    Raises:
        DataError: if a file is missing or not as published.

    Note:
        Class names are the data set's own, with underscores, as in the published heads.
    """
    one_of("split", split, SPLITS)
    folder = Path(folder)
    rows = _table(folder / "rgb_metadata.csv", "split", "category", "timestamp", "country_code")
    codes = _table(folder / "country_code_mapping.csv", "alpha-3", "region")
    region_of = {row["alpha-3"]: row["region"] for row in codes}
    names = tuple(sorted({row["category"] for row in rows}))
    label_of = {name: index for index, name in enumerate(names)}
    # Files are numbered by the row of the whole table, sequestered rows included.
    chosen = [index for index, row in enumerate(rows) if _fmow_split(row, folder) == split]
    return _split(
        "fmow",
        folder,
        split,
        [folder / "images" / f"rgb_img_{index}.png" for index in chosen],
        [label_of[rows[index]["category"]] for index in chosen],
        names,
        "worst_group" if split in ("val", "test") else "top1",
        groups=tuple(region_of.get(rows[index]["country_code"]) or OTHER_REGION for index in chosen),
        ignored_groups=(OTHER_REGION,),
    )


def _split(
    name: str,
    folder: Path,
    split: str,
    paths: list[Path],
    labels: list[int],
    names: tuple[str, ...],
    metric: str,
    groups: tuple[str, ...] | None = None,
    ignored_groups: tuple[str, ...] = (),
) -> ListedSplit:
    if not paths:
        raise DataError(f"{folder} has no image of the split {split!r}; unpack the data set again")
    return ListedSplit(
        name=name,
        paths=tuple(paths),
        labels=np.array(labels, dtype=np.int64),
        head_classes=names,
        logit_map=LogitMap(len(names)),
        class_names=names,
        metric=metric,
        groups=groups,
        ignored_groups=ignored_groups,
    )


def _fmow_split(row: dict[str, str], folder: Path) -> str | None:
    """The benchmark's split of a row of the original data set's table, ``None`` for a row it leaves out."""
    year = row["timestamp"][:4]
    if not (year.isascii() and year.isdigit()):
        raise DataError(
            f"{folder / 'rgb_metadata.csv'}: timestamps must begin with a year; got {shown(row['timestamp'], 40)!r}"
        )
    period = "test" if int(year) >= 2016 else "val" if int(year) >= 2013 else "id"
    if period == "id":
        return {"train": "train", "val": "id_val", "test": "id_test"}.get(row["split"])
    return period if row["split"] == period else None


def _iwildcam_names(folder: Path) -> tuple[str, ...]:
    """English names in label order, lower case."""
    path, column = folder / "labels.csv", "english"
    if not path.exists():
        path, column = folder / "categories.csv", "name"
    named = {_label(row["y"], path): row[column].lower() for row in _table(path, "y", column)}
    named.pop(NO_LABEL, None)
    if sorted(named) != list(range(len(named))):
        raise DataError(f"{path}: labels must be 0, 1, 2, ... without a gap; got {len(named)} names; check the table")
    return tuple(named[label] for label in range(len(named)))


def _label(text: str, path: Path) -> int:
    try:
        return int(text)
    except ValueError:
        raise DataError(f"{path}: `y` must be whole numbers; got {shown(text, 40)!r}; check the table") from None


def _table(path: Path, *columns: str) -> list[dict[str, str]]:
    """The named columns of a CSV file, row by row."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [column for column in columns if column not in (reader.fieldnames or [])]
            if missing:
                raise DataError(f"{path} has no column {first_five(missing)}; unpack the data set again")
            return [{column: row[column] or "" for column in columns} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"cannot read {path} ({reason}); give the folder that WILDS downloads") from None
