"""A folder of class folders: ``cats/1.jpg``, ``dogs/deep/er/2.png``."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tracerft.data.found import FileReader, Found, FoundSet
from tracerft.data.paths import Root, is_image_name
from tracerft.data.text import first_five, shown
from tracerft.errors import DataError


def read_class_folders(folder: Path, root: Root) -> FoundSet:
    """Every image below each class folder, in the order of the names.

    Hidden files and folders are ignored, links are followed inside ``root``, a folder linked into
    itself is gone through once.

    Raises:
        DataError: if there are no class folders, one has no image, or a link is broken or leads out.
    """
    entries = [e for e in _listing(str(folder)) if not e.name.startswith(".")]
    names = [e.name for e in entries if os.path.isdir(e.path)]
    loose = [e.name for e in entries if is_image_name(e.name) and e.name not in names]
    if not names:
        kind = f"{len(loose)} images, but no class folders" if loose else "no images and no class folders"
        raise DataError(
            f"{shown(folder)}: {kind} and no captions table in it; expected a folder a class (cats/1.jpg), or a "
            "captions.csv with the columns image and caption beside the images"
        )
    walk = _Walk(root)
    walk.broken.extend(e.path for e in entries if e.is_symlink() and not os.path.exists(e.path))
    found: list[Found] = []
    paths: list[str] = []
    for name in names:
        for path in walk.images(os.path.join(folder, name)):
            relative = os.path.relpath(path, folder).replace(os.sep, "/")
            found.append(Found(relative, os.stat(path).st_size, len(paths), label=name, where=relative))
            paths.append(path)
    _refuse_gaps(folder, names, found, walk)
    warnings = _warnings(names, loose, found, walk)
    return FoundSet(found, FileReader(tuple(paths)), declared=tuple(names), ordered=True, warnings=warnings)


def _refuse_gaps(folder: Path, names: list[str], found: list[Found], walk: "_Walk") -> None:
    if walk.broken:
        raise DataError(
            f"{shown(folder)}: {len(walk.broken)} broken links or unreadable entries: {first_five(walk.broken)}; "
            "restore or remove them"
        )
    counts = Counter(f.label for f in found)
    empty = [name for name in names if not counts[name]]
    if empty:
        other = f"; endings found: {', '.join(sorted(walk.other))}" if walk.other else ""
        raise DataError(
            f"{shown(folder)}: {len(empty)} of {len(names)} class folders hold no image: {first_five(empty)}{other}; "
            "fill them, remove them, or give the folder that holds the class folders"
        )


def _warnings(names: list[str], loose: list[str], found: list[Found], walk: "_Walk") -> list[str]:
    counts = Counter(f.label for f in found)
    single = [name for name in names if counts[name] == 1]
    ignored = sum(walk.other.values())
    lines = [
        (single, f"{len(single)} classes have one image: {first_five(single)}"),
        (loose, f"{len(loose)} images outside of any class folder ignored: {first_five(loose)}"),
        (ignored, f"{ignored} files that are no images ignored ({', '.join(sorted(walk.other))})"),
        (walk.loops, f"{len(walk.loops)} links to folders already gone through ignored: {first_five(walk.loops)}"),
        (len(names) == 1, f"one class folder only ({shown(names[0])}): every caption will name the same class"),
    ]
    return [line for condition, line in lines if condition]


def _listing(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda e: e.name)
    except OSError as error:
        raise DataError(f"{shown(folder)}: cannot be listed ({error.strerror}); check its permissions") from error


class _Walk:
    """Goes through folders without recursion; remembers what it passed over."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self.other: Counter[str] = Counter()
        self.loops: list[str] = []
        self.broken: list[str] = []
        self._linked: set[str] = set()

    def images(self, top: str) -> Iterator[str]:
        """Paths of the images below ``top``, sorted within each folder."""
        stack = [top]
        if os.path.islink(top) and not self._enters(top):
            return
        while stack:
            below: list[str] = []
            for entry in _listing(stack.pop()):
                if entry.name.startswith("."):
                    continue
                kind = self._kind(entry)
                if kind == "folder":
                    below.append(entry.path)
                elif kind == "image":
                    yield entry.path
            stack.extend(reversed(below))

    def _kind(self, entry: os.DirEntry[str]) -> str:
        """``folder``, ``image`` or ``other``; a link is what it leads to."""
        try:
            folder, regular = entry.is_dir(), entry.is_file()
            if entry.is_symlink() and (folder or regular):
                self.root.inside(os.path.realpath(entry.path), entry.path)
        except OSError:  # a loop of links
            folder = regular = False
        if folder:
            return "folder" if not entry.is_symlink() or self._enters(entry.path) else "other"
        if not is_image_name(entry.name):
            self.other[Path(entry.name).suffix.lower() or "no ending"] += 1
            return "other"
        if not regular:
            self.broken.append(entry.path)
            return "other"
        return "image"

    def _enters(self, link: str) -> bool:
        """Whether a linked folder is new: not an ancestor of the link, not entered by another link."""
        real = self.root.inside(os.path.realpath(link), link)
        parent = os.path.join(os.path.realpath(os.path.dirname(link)), "")
        if real in self._linked or parent.startswith(os.path.join(real, "")):
            self.loops.append(link)
            return False
        self._linked.add(real)
        return True
