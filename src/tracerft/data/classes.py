"""Class names: read, matched between sets, and turned into label ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tracerft.data.found import FoundSet
from tracerft.data.rows import decode_text
from tracerft.data.text import first_five, match_key, readable, repeated, shown
from tracerft.errors import DataError, did_you_mean

_MAX_CLASSES = 1_000_000


@dataclass(frozen=True)
class ClassNames:
    """Names in the order of label ids.

    Args:
        names: as a prompt says them.
        keys: what the data calls them (such as ``n01440764``), if that differs.
    """

    names: tuple[str, ...]
    keys: tuple[str, ...] | None = None


def read_classes(source: str | Path | Sequence[str] | Mapping[str, str]) -> ClassNames:
    """Class names from a list, a mapping of folder or label to name, or a text file.

    Args:
        source: a file has one name a line, or ``key<TAB>name``.

    Raises:
        DataError: if the file is missing or a name is empty.
    """
    where = "classes"
    if isinstance(source, Mapping):
        pairs = [(str(key), str(name)) for key, name in source.items()]
    elif isinstance(source, (str, Path)):
        where = shown(source)
        pairs = _file_pairs(Path(source))
    else:
        pairs = [("", str(name)) for name in source]
    names = tuple(" ".join(name.split()) for _, name in pairs)
    if not names or not all(names):
        raise DataError(f"{where}: {'a class name is empty' if names else 'no class names'}; give one name a line")
    keys = tuple(key.strip() for key, _ in pairs)
    if not any(keys):
        return ClassNames(names)
    if not all(keys) or len(set(keys)) < len(keys):
        raise DataError(f"{where}: each line needs its own key before the tab; correct it, or give names only")
    return ClassNames(names, keys)


def _file_pairs(path: Path) -> list[tuple[str, str]]:
    try:
        text, _ = decode_text(path.read_bytes(), shown(path))
    except OSError as error:
        raise DataError(
            f"{shown(path)}: class names cannot be read ({error.strerror}); expected a text file with one name a line"
        ) from error
    lines = [line for line in text.replace("\r\n", "\n").split("\n") if line.strip()]
    return [(key, name) if tab else ("", key) for key, tab, name in (line.partition("\t") for line in lines)]


def match_classes(a: Sequence[str], b: Sequence[str], *, partial: bool = False) -> NDArray[np.int64]:
    """Where each class of ``b`` is in ``a``, by name; ``_``, ``-`` and capitals do not matter.

    Args:
        a: class names of the reference, such as the training set.
        b: class names of the other set.
        partial: whether ``b`` may lack classes of ``a``, as many shifted sets do.

    Returns:
        ``(len(b),)`` ids in ``a``.

    Raises:
        DataError: with the difference, if the names do not match.
    """
    where: dict[str, list[int]] = {}
    for index, name in enumerate(a):
        where.setdefault(match_key(name), []).append(index)
    hits = [where.get(match_key(name), []) for name in b]
    unknown = [name for name, hit in zip(b, hits, strict=True) if not hit]
    taken = {index for hit in hits for index in hit}
    lacking = [] if partial else [name for index, name in enumerate(a) if index not in taken]
    if unknown or lacking:
        parts = [f"{len(unknown)} classes are not in the first: {first_five(unknown)}"] if unknown else []
        parts += [f"{len(lacking)} classes of the first are missing: {first_five(lacking)}"] if lacking else []
        hint = did_you_mean(unknown[0], list(a)) if unknown else ""
        raise DataError(
            f"the class names of the two sets ({len(a)} and {len(b)}) differ: {'; '.join(parts)}{hint}; rename them, "
            "or give `classes` as a file with `folder<TAB>name` lines"
        )
    unclear = [name for name, hit in zip(b, hits, strict=True) if len(hit) > 1] or repeated(b)
    if unclear:
        raise DataError(
            f"class names that occur twice cannot be matched: {first_five(unclear)}; give each its own name"
        )
    return np.array([hit[0] for hit in hits], dtype=np.int64)


def assign_labels(data: FoundSet, classes: ClassNames | None, where: str) -> tuple[tuple[str, ...], list[int | None]]:
    """Class names and label ids of what was found.

    With class names given, labels are keys, ids, names, or (class folders only) positions in the sorted
    order, whichever fits all of them; without, names are the data's own.

    Raises:
        DataError: if only some images have a label, or labels and class names do not fit.
    """
    raw = [f.label for f in data.found]
    if all(label is None for label in raw):
        return (classes.names if classes else ()), [None] * len(raw)
    without = [f.where for f in data.found if f.label is None]
    if without:
        raise DataError(
            f"{where}: {len(without)} of {len(raw)} images have no label (or one out of range): {first_five(without)}; "
            "label them or take them out"
        )
    distinct = list(dict.fromkeys(label for label in raw if label is not None))
    names, ids = _own_names(data, distinct, where) if classes is None else _given(data, distinct, classes, where)
    return names, [ids[label] for label in raw if label is not None]


def _numbers(labels: Sequence[str | int]) -> dict[str | int, int] | None:
    """Each label as a number, if all are."""
    texts = [str(label) for label in labels]
    if all(t.removeprefix("-").isdigit() and t.isascii() and len(t) < 10 for t in texts):
        return {label: int(t) for label, t in zip(labels, texts, strict=True)}
    return None


def _own_names(data: FoundSet, distinct: list[str | int], where: str) -> tuple[tuple[str, ...], dict[str | int, int]]:
    numbers = None if data.declared else _numbers(distinct)
    if numbers is not None:
        low, high = min(numbers.values()), max(numbers.values())
        if low < 0 or high >= _MAX_CLASSES:
            raise DataError(f"{where}: labels must be 0, 1, 2, ...; got {low} to {high}; renumber them or use names")
        data.warnings.append(f"labels are the numbers {low} to {high} with no names; give `classes` for real captions")
        return tuple(str(i) for i in range(high + 1)), numbers
    order = list(data.declared) if data.declared else sorted(str(label) for label in distinct)
    names = tuple(readable(name) for name in order)
    if not all(names):
        raise DataError(f"{where}: a class name has no letters ({shown(order[names.index('')])!r}); rename it")
    same = repeated(order)
    if same:
        raise DataError(f"{where}: class names that read the same: {first_five(same)}; rename one, or give `classes`")
    ids = {name: index for index, name in enumerate(order)}
    return names, {label: ids[str(label)] for label in distinct}


def _given(
    data: FoundSet, distinct: list[str | int], classes: ClassNames, where: str
) -> tuple[tuple[str, ...], dict[str | int, int]]:
    names = classes.names
    known = {match_key(name) for name in names}
    numbers = _numbers(distinct)
    if classes.keys is not None:
        index = {key: i for i, key in enumerate(classes.keys)}
        unknown = [label for label in distinct if str(label) not in index]
        if unknown:
            raise DataError(
                f"{where}: {len(unknown)} labels are not among the {len(index)} keys of `classes`: "
                f"{first_five(unknown)}; add a line for each"
            )
        return names, {label: index[str(label)] for label in distinct}
    if numbers is not None and not data.ordered and not any(match_key(str(label)) in known for label in distinct):
        low, high = min(numbers.values()), max(numbers.values())
        if low < 0 or high >= len(names):
            raise DataError(
                f"{where}: labels go from {low} to {high}, but `classes` has {len(names)} names; "
                "count labels from 0 and give all names"
            )
        return names, numbers
    folders = data.declared if data.ordered and data.declared else ()
    if len(folders) == len(names) and not any(match_key(folder) in known for folder in folders):
        data.warnings.append(f"{len(names)} class names given to the sorted folders by position")
        return names, {folder: i for i, folder in enumerate(folders)}
    try:
        where_in = match_classes(names, [str(label) for label in distinct], partial=True)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    return names, {label: int(i) for label, i in zip(distinct, where_in, strict=True)}
