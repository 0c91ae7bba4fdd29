"""The samples of a data set as a table with a hash, whatever it is kept in."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracerft.data.classes import assign_labels, match_classes, read_classes
from tracerft.data.columns import GROUP, check_columns
from tracerft.data.folders import read_class_folders
from tracerft.data.found import FileReader, FoundSet, Reader, check_groups
from tracerft.data.hub import read_saved_set
from tracerft.data.kinds import kind_of
from tracerft.data.paths import Root
from tracerft.data.remote import is_url, tar_urls
from tracerft.data.tables import read_image_table
from tracerft.data.tars import read_tars, tars_in
from tracerft.data.text import clean_caption, first_five, shown
from tracerft.distributed import ALONE, World
from tracerft.errors import DataError


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and what is known of it.

    Args:
        name: path relative to the data set, ``tar/member``, or ``row 3``.
        size: encoded bytes.
        captions: none, one or several.
        label: class id, or ``None``.
        at: the reader's row.
        group: such as the camera it was taken with, ``None`` where groups were not asked for.
    """

    name: str
    size: int
    captions: tuple[str, ...]
    label: int | None
    at: int
    group: str | None = None


@dataclass(frozen=True)
class Manifest:
    """A data set: what its images are and say, without the images.

    Args:
        samples: in a fixed order.
        classes: names by label id; empty where there are no labels.
        reader: where the encoded images are.
        warnings: counted things a user should know, one line each.
        tags: what a store calls the versions of its files, such as ETags; none for files here.
    """

    samples: tuple[Sample, ...]
    classes: tuple[str, ...]
    reader: Reader
    warnings: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of images."""
        return len(self.samples)

    @cached_property
    def labels(self) -> NDArray[np.int64] | None:
        """``(n,)`` class ids, or ``None`` where there are none."""
        if any(s.label is None for s in self.samples):
            return None
        return np.array([s.label for s in self.samples], dtype=np.int64)

    @property
    def groups(self) -> tuple[str, ...] | None:
        """The group of each image, or ``None`` where there are none."""
        named = tuple(s.group for s in self.samples if s.group is not None)
        return named if named and len(named) == len(self.samples) else None

    @property
    def has_captions(self) -> bool:
        """Whether every image has captions of its own."""
        return all(s.captions for s in self.samples)

    @cached_property
    def sha256(self) -> str:
        """Hash of names, sizes, captions, labels, classes, groups and tags, in order; not of dates, folders, pixels."""
        digest = hashlib.sha256(json.dumps(["tracerft manifest 1", self.classes, *self.tags]).encode())
        for s in self.samples:
            group = [] if s.group is None else [s.group]  # without one the hash is what it was before there were groups
            digest.update(json.dumps([s.name, s.size, s.captions, s.label, *group]).encode())
        return digest.hexdigest()

    def read(self, index: int) -> bytes:
        """The encoded image of a sample."""
        sample = self.samples[index]
        return self.reader.read(sample.at, sample.name)

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> "Manifest":
        """The samples at these positions, in this order."""
        return dataclasses.replace(self, samples=tuple(self.samples[int(i)] for i in indices))

    def without_captions(self) -> "Manifest":
        """The same images with their labels alone.

        Raises:
            DataError: if there are no labels.
        """
        if self.labels is None:
            raise DataError("the data has captions but no labels; class names are needed here; give a label column")
        return dataclasses.replace(self, samples=tuple(dataclasses.replace(s, captions=()) for s in self.samples))

    def with_classes(self, classes: Sequence[str], *, partial: bool = True) -> "Manifest":
        """The same images labelled with the ids of another set's classes, matched by name.

        Raises:
            DataError: with the difference, if the names do not match.
        """
        ids = match_classes(classes, self.classes, partial=partial)
        samples = tuple(s if s.label is None else dataclasses.replace(s, label=int(ids[s.label])) for s in self.samples)
        return dataclasses.replace(self, samples=samples, classes=tuple(classes))


def manifest_of_files(
    paths: Sequence[Path], labels: Sequence[int] | NDArray[np.int64], classes: Sequence[str]
) -> Manifest:
    """A manifest of image files that are listed already, such as those of a published benchmark.

    Args:
        paths: image files.
        labels: a class id each.
        classes: names by label id.

    Raises:
        DataError: if a file is missing.
    """
    missing = [path for path in paths if not path.is_file()]
    if missing or not paths:
        raise DataError(f"{len(missing)} of {len(paths)} image files are missing: {first_five(missing)}; restore them")
    top = os.path.commonpath([path.parent for path in paths])
    samples = tuple(
        Sample(path.relative_to(top).as_posix(), path.stat().st_size, (), int(label), at)
        for at, (path, label) in enumerate(zip(paths, labels, strict=True))
    )
    return Manifest(samples, tuple(classes), FileReader(tuple(str(path) for path in paths)))


def read_manifest(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    classes: str | Path | Sequence[str] | Mapping[str, str] | None = None,
    root: str | Path | None = None,
    separator: str | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    world: World = ALONE,
) -> Manifest:
    """Read a data set by what its path is.

    A folder of class folders; a folder with ``captions.csv`` (or tsv, jsonl, txt); one such table; a tar
    or a folder of tars; tars in a store, by URL; a folder that Hugging Face `datasets` saved.

    Args:
        path: the data set.
        columns: names of the columns (keys, in JSON) ``image``, ``caption`` and ``label``; obvious ones
            are guessed; ``group`` is not. A pattern such as ``noto/{codepoint}.png`` is filled from other
            columns; an empty name means that there is no such column.
        classes: names by label id: a list, a file with one a line or with ``folder<TAB>name``, or a
            mapping of folder to name. By default the data's own.
        root: folder that a table's image paths start from and that paths and links may not leave; by
            default the table's folder.
        separator: between several captions in one cell.
        delimiter: of the table's cells; found by default.
        encoding: of the table; found by default.
        world: ranks that share the work of indexing tars; all must call this.

    Returns:
        The checked samples, in the order of the source.

    Raises:
        DataError: one line that names the file, line or field that is wrong, and the cure.
        MissingExtraError: for a saved Hugging Face data set, or a store, without the package.
    """
    wanted = check_columns(columns)
    names = None if classes is None else read_classes(classes)
    notes: dict[str, Any] = {"separator": separator, "encoding": encoding}
    if is_url(str(path)):
        data = read_tars(tar_urls(str(path)), wanted, world=world, **notes)
    else:
        data = _read_local(Path(path), root, wanted, delimiter, world, notes)
    if GROUP in wanted:
        check_groups(data, wanted[GROUP], shown(path))
    labelled_names, labels = assign_labels(data, names, shown(path))
    return _manifest(data, labelled_names, labels, shown(path))


def _read_local(
    path: Path,
    root: str | Path | None,
    wanted: Mapping[str, str],
    delimiter: str | None,
    world: World,
    notes: Mapping[str, Any],
) -> FoundSet:
    try:
        kind, source = kind_of(path)
        bounds = Root(Path(root) if root is not None else source if source.is_dir() else source.parent)
        if kind == "table":
            return read_image_table(source, bounds, wanted, delimiter=delimiter, **notes)
        if kind == "tars":
            tars = tars_in(source, bounds) if source.is_dir() else [source.as_posix()]
            return read_tars(tars, wanted, world=world, **notes)
        if kind == "saved":
            return read_saved_set(source, wanted, separator=notes["separator"])
        return read_class_folders(source, bounds)
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be read ({error.strerror}); check path and permissions") from error


def _manifest(data: FoundSet, classes: tuple[str, ...], labels: list[int | None], where: str) -> Manifest:
    samples: list[Sample] = []
    empty: list[str] = []
    broken = 0
    for entry, label in zip(data.found, labels, strict=True):
        cleaned = [clean_caption(text) for text in entry.captions]
        broken += sum(changed for _, changed in cleaned)
        if not all(text for text, _ in cleaned):
            empty.append(entry.where)
        captions = tuple(dict.fromkeys(text for text, _ in cleaned))
        samples.append(Sample(entry.name, entry.size, captions, label, entry.at, entry.group))
    if empty:
        raise DataError(
            f"{where}: {len(empty)} images have an empty caption: {first_five(empty)}; fill them in or take them out"
        )
    bare = [entry.where for entry, s in zip(data.found, samples, strict=True) if not s.captions]
    if bare and (len(bare) < len(samples) or labels[0] is None):
        raise DataError(
            f"{where}: {len(bare)} of {len(samples)} images have neither caption nor class: {first_five(bare)}; add "
            "them, or take the images out"
            if labels[0] is None
            else f"{where}: {len(bare)} of {len(samples)} images have no caption: {first_five(bare)}; add them"
        )
    warnings = list(data.warnings)
    if broken:
        warnings.append(f"{broken} captions held NUL or broken characters, which were taken out")
    return Manifest(tuple(samples), classes, data.reader, tuple(warnings), data.tags)
