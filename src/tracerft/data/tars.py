"""Images in tar files, read where they lie: headers once, then by offset; nothing is ever unpacked.

Members that share a stem are one sample, as webdataset writes them: ``000.jpg`` with ``000.txt``,
``000.json`` or ``000.cls``.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracerft.data import remote
from tracerft.data.columns import GROUP, check_separator, group_of, label_of, pick_columns, texts
from tracerft.data.found import Found, FoundSet
from tracerft.data.paths import IMAGE_SUFFIXES, Root, read_file
from tracerft.data.rows import decode_text, json_object
from tracerft.data.tar_index import MAX_NOTE_BYTES, TAR_SUFFIXES, Member, index_tar, split_name
from tracerft.data.text import first_five, shown
from tracerft.data.threads import default_threads
from tracerft.distributed import ALONE, World
from tracerft.errors import DataError


@dataclass(frozen=True, eq=False)
class TarReader:
    """Images inside tars.

    Args:
        tars: paths or URLs.
        places: ``(n, 3)``: tar, offset and size of each image.
    """

    tars: tuple[str, ...]
    places: NDArray[np.int64]

    def read(self, at: int, name: str) -> bytes:
        """The member's bytes."""
        tar, offset, size = self.places[at].tolist()
        read = remote.read_range if remote.is_url(self.tars[tar]) else read_file
        return read(self.tars[tar], name, offset, size)


def read_tars(
    places: Sequence[str],
    wanted: Mapping[str, str],
    *,
    separator: str | None = None,
    encoding: str | None = None,
    world: World = ALONE,
) -> FoundSet:
    """The samples of one or more tars, in order.

    Several tars are indexed at once, by threads, and of several ranks each indexes every W-th and tells the others.
    What comes out does not depend on either.

    Args:
        places: paths with ``/``, or URLs.
        wanted: keys of the ``.json`` members by role; see `pick_columns`.
        separator: between several captions in one text.
        encoding: of ``.txt`` members.
        world: the ranks, which must all call this.

    Raises:
        DataError: if a tar is refused (see `index_tar`), or a sample has two images or a bad caption; of several bad
            tars the first one's error. Also if ranks find different tars.
    """
    check_separator(separator)
    _refuse_other_tars(places, world)
    top = os.path.commonprefix(places).rfind("/") + 1  # noqa: RUF071  # of a path the last whole folder, URLs too
    names = [place[top:] for place in places]

    def read(number: int) -> dict[str, Any]:
        try:
            return _read_tar(places[number], names[number], _Notes(places[number], wanted, separator, encoding))
        except DataError as error:
            return {"error": str(error)}

    threads = remote.THREADS if remote.is_url(places[0]) else default_threads()
    found: list[Found] = []
    images: list[NDArray[np.int64]] = []
    tags: list[str] = []
    bare = 0
    for number, tar in enumerate(_in_order(read, len(places), threads, world)):
        where = shown(places[number])
        for name, size, captions, label, group in tar["samples"]:
            short = name[len(names[number]) + 1 :]
            found.append(Found(name, size, len(found), captions, label, f"{where}, {shown(short)}", group))
        offsets, sizes = tar["offsets"], [sample[1] for sample in tar["samples"]]
        images.append(np.array([[number] * len(sizes), offsets, sizes], dtype=np.int64).T)
        tags.extend([tar["tag"]] if tar["tag"] else [])
        bare += tar["bare"]
    if not found:
        raise DataError(f"{first_five(places)}: no images; expected members such as 000.jpg with 000.txt or 000.cls")
    warnings = [f"{bare} samples without an image ignored"] if bare else []
    return FoundSet(found, TarReader(tuple(places), np.concatenate(images)), warnings=warnings, tags=tuple(tags))


def _refuse_other_tars(places: Sequence[str], world: World) -> None:
    digest = hashlib.sha256(json.dumps(list(places)).encode()).hexdigest()
    first, *others = world.everywhere({"tars": len(places), "sha256 of their names": digest})
    for rank, other in enumerate(others, start=1):
        if other != first:
            raise DataError(
                f"rank {rank} finds other tars than rank 0 ({other.get('tars')} there, {first.get('tars')} on rank 0); "
                "start all ranks with the same options and data"
            )


def _in_order(
    read: Callable[[int], dict[str, Any]], count: int, threads: int, world: World
) -> Iterator[dict[str, Any]]:
    """What each tar holds: W at a time are exchanged, so that no message is larger than a few tars' samples."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="tracerft-tars")
    try:
        mine = pool.map(read, range(world.rank, count, world.size))
        for _ in range(0, count, world.size):
            for tar in world.everywhere(next(mine, None)):
                if tar is not None and "error" in tar:
                    raise DataError(tar["error"])
                if tar is not None:
                    yield tar
    finally:
        pool.shutdown(cancel_futures=True)


def _read_tar(place: str, name: str, notes: "_Notes") -> dict[str, Any]:
    """The samples of one tar as plain data, so that ranks can tell each other."""
    members, tag = index_tar(place)
    samples: list[list[Any]] = []
    offsets: list[int] = []
    bare = 0
    for stem, group in _groups(members, place):
        image = _image_of(group, f"{shown(place)}, sample {shown(stem)}")
        if image is None:
            bare += 1
            continue
        entry = Found(f"{name}/{image.name}", image.size, 0, where=f"{shown(place)}, {shown(image.name)}")
        notes.fill(entry, group)
        samples.append([entry.name, entry.size, entry.captions, entry.label, entry.group])
        offsets.append(image.offset)
    return {"samples": samples, "offsets": offsets, "bare": bare, "tag": tag}


def _groups(members: Sequence[Member], place: str) -> Iterator[tuple[str, dict[str, Member]]]:
    """Members by stem and ending, in the order of the archive."""
    groups: dict[str, dict[str, Member]] = {}
    for member in members:
        stem, ending = split_name(member.name)
        if groups.setdefault(stem, {}).setdefault(ending, member) is not member:
            raise DataError(f"{shown(place)}: two members are named {shown(member.name)}; make the tar again with one")
    yield from groups.items()


def _image_of(group: Mapping[str, Member], where: str) -> Member | None:
    images = [member for ending, member in group.items() if f".{ending}".endswith(IMAGE_SUFFIXES)]
    if len(images) > 1:
        raise DataError(f"{where}: has {len(images)} images ({first_five(m.name for m in images)}); keep one a stem")
    return images[0] if images else None


@dataclass
class _Notes:
    """Reads the small members beside an image."""

    place: str
    wanted: Mapping[str, str]
    separator: str | None
    encoding: str | None
    _seen: dict[tuple[str, ...], Any] = field(default_factory=dict)

    def fill(self, entry: Found, group: Mapping[str, Member]) -> None:
        """Captions, label and group of ``entry`` from ``.txt``, ``.json`` and ``.cls``."""
        if "json" in group:
            where = f"{shown(self.place)}, {shown(group['json'].name)}"
            row = json_object(_text_of(group["json"], where), where)
            roles = [r for r, ending in (("caption", "txt"), ("label", "cls")) if ending not in group]
            header = tuple(row)
            if header not in self._seen:
                self._seen[header] = self._columns(header, where, roles)
            columns = self._seen[header]
            if columns is not None and columns.caption is not None:
                entry.captions = texts(columns.value("caption", row), self.separator, where)
            if columns is not None:
                entry.label = label_of(columns.value("label", row), where)
            if GROUP in self.wanted:
                entry.group = group_of(row.get(self.wanted[GROUP]), where)
        if "txt" in group:
            entry.captions = texts(self._text(group["txt"]), self.separator, entry.where)
        if "cls" in group:
            label = self._text(group["cls"]).strip()
            entry.label = int(label) if label.isascii() and label.isdigit() and len(label) < 10 else label or None

    def _columns(self, header: tuple[str, ...], where: str, roles: list[str]) -> Any:
        chosen = {role: name for role, name in self.wanted.items() if role in roles}
        if not roles:
            return None
        try:
            return pick_columns(header, chosen, where, roles)
        except DataError:
            if chosen or len(roles) == 2:
                raise
            return None  # the other member says what there is to say

    def _text(self, member: Member) -> str:
        where = f"{shown(self.place)}, {shown(member.name)}"
        return decode_text(_text_of(member, where), where, self.encoding)[0]


def _text_of(member: Member, where: str) -> bytes:
    if member.text is None:
        raise DataError(f"{where}: {member.size >> 10} KiB of text, the limit is {MAX_NOTE_BYTES >> 10}; shorten it")
    return member.text


def tars_in(folder: Path, root: Root) -> list[str]:
    """The visible tars directly in a folder, sorted; links are followed inside ``root``."""
    names = sorted(p.name for p in folder.iterdir() if p.name.lower().endswith(TAR_SUFFIXES) and p.name[0] != ".")
    paths = [folder / name for name in names]
    for path in paths:
        root.inside(os.path.realpath(path), str(path))
    return [path.as_posix() for path in paths]
