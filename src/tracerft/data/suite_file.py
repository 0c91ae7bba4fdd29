"""A suite as people write it: YAML to plain dataclasses, with every mistake of the file in one message.

Imports `errors` and its neighbours only; opens the YAML file and lists of names, never an image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracerft.data.benchmarks import BENCHMARKS
from tracerft.data.columns import ROLES
from tracerft.data.prompts import TEMPLATE_NAMES
from tracerft.data.strict_yaml import read_strict_yaml
from tracerft.data.text import shown
from tracerft.errors import DataError, did_you_mean

METRICS = ("top1", "macro_f1", "worst_group")
_SUITE_KEYS = ("classes", "templates", "id", "shifts")
_SPLIT_KEYS = ("data", "columns", "label", "metric", "group", "subset", "builder", "split")


@dataclass(frozen=True)
class SplitFile:
    """One split of a suite file.

    Args:
        name: ``id`` or the shift's name.
        data: where the samples are; exists.
        columns: columns of a table by role (image, caption, label), as `read_manifest` takes them.
        metric: ``top1``, ``macro_f1`` or ``worst_group``; ``None`` leaves it to the builder, or is top1.
        group: column of a table with the group of each sample.
        subset: class names that are compared, in this order; ``None`` is all.
        builder: a published benchmark of `BENCHMARKS`, or ``None`` for own data.
        split: which split of a benchmark that has several.
    """

    name: str
    data: Path
    columns: Mapping[str, str]
    metric: str | None = None
    group: str | None = None
    subset: tuple[str, ...] | None = None
    builder: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class SuiteFile:
    """A suite file.

    Args:
        path: the file.
        classes: class names in label order; ``None``: the folder names of the ID split.
        templates: a name, a tuple of sentences with ``{}``, or ``None`` for the run's own.
        id: the in-distribution split.
        shifts: the others, by name, in the order of the file.
    """

    path: Path
    classes: tuple[str, ...] | None
    templates: str | tuple[str, ...] | None
    id: SplitFile
    shifts: Mapping[str, SplitFile]


def read_suite_file(path: Path) -> SuiteFile:
    """Read and check a suite file; relative paths start at the file's folder.

    Args:
        path: a YAML file.

    Raises:
        DataError: if it cannot be read, or anything in it is wrong; the message lists every problem.
    """
    path = Path(path)
    reader = _Reader(path)
    suite = reader.suite(read_strict_yaml(path))
    if reader.problems or suite is None:
        count = len(reader.problems)
        raise DataError(f"{path}: {count} problem{'s' * (count > 1)}: {'; '.join(reader.problems)}")
    return suite


class _Reader:
    """Reads on after a mistake; ``problems`` holds one clause each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []

    def suite(self, value: Any) -> SuiteFile | None:
        table = self._keys(value, _SUITE_KEYS, "the file", example="id: {data: photos/test}")
        classes = self._names(table.get("classes"), "classes")
        templates = self._templates(table.get("templates"))
        if "id" not in table:
            self._wrong("id", "is missing", "add id: {data: FOLDER}")
        splits = {"id": self._split("id", table.get("id"), classes)} if "id" in table else {}
        shifts = table.get("shifts") or {}
        if not isinstance(shifts, dict):
            self._wrong("shifts", f"must map names to splits; got {_kind(shifts)}", "write NAME: {data: FOLDER}")
            shifts = {}
        self._shift_names(shifts)
        for name, split in shifts.items():
            splits[f"shifts.{name}"] = self._split(f"shifts.{name}", split, classes)
        complete = {where.removeprefix("shifts."): split for where, split in splits.items() if split is not None}
        if self.problems:
            return None
        return SuiteFile(self.path, classes, templates, complete.pop("id"), complete)

    def _split(self, where: str, value: Any, classes: Sequence[str] | None) -> SplitFile | None:
        table = self._keys(value, _SPLIT_KEYS, where, example="data: FOLDER")
        data = self._data(table.get("data"), where)
        columns = self._columns(table, where)
        metric = self._choice(table.get("metric"), METRICS, f"{where}.metric")
        builder = self._choice(table.get("builder"), tuple(BENCHMARKS), f"{where}.builder")
        group = self._text(table.get("group"), f"{where}.group")
        subset = self._names(table.get("subset"), f"{where}.subset")
        for name in [name for name in subset or () if classes is not None and name not in classes]:
            self._wrong(f"{where}.subset", f"{name!r} is not in classes{did_you_mean(name, list(classes or ()))}")
        split = self._benchmark(table, builder, where)
        grouped = group is not None or (builder is not None and BENCHMARKS[builder].grouped)
        if metric == "worst_group" and not grouped:
            self._wrong(f"{where}.metric", "worst_group needs groups", "name their column with group: COLUMN")
        if data is None:
            return None
        return SplitFile(where.removeprefix("shifts."), data, columns, metric, group, subset, builder, split)

    def _benchmark(self, table: Mapping[str, Any], builder: str | None, where: str) -> str | None:
        """The split of a benchmark, and what does not go with one."""
        splits = BENCHMARKS[builder].splits if builder is not None else ()
        if builder is not None:
            for key in [key for key in ("columns", "label", "group", "subset") if key in table]:
                self._wrong(f"{where}.{key}", f"does not go with builder {builder}, which knows its own", "remove it")
        if "split" not in table:
            return None
        if not splits:
            self._wrong(f"{where}.split", "is for the builders iwildcam and fmow", "remove it")
            return None
        return self._choice(table["split"], splits, f"{where}.split")

    def _columns(self, table: Mapping[str, Any], where: str) -> dict[str, str]:
        given = self._keys(table.get("columns", {}), ROLES, f"{where}.columns", example="image: COLUMN")
        columns = {role: self._text(name, f"{where}.columns.{role}") for role, name in given.items()}
        if "label" in table:
            if "label" in columns:
                self._wrong(f"{where}.label", "is said twice, here and in columns", "remove one")
            columns["label"] = self._text(table["label"], f"{where}.label")
        return {role: name for role, name in columns.items() if name is not None}

    def _data(self, value: Any, where: str) -> Path | None:
        text = self._text(value, f"{where}.data") if value is not None else None
        if text is None:
            if value is None:
                self._wrong(f"{where}.data", "is missing", "give a folder or file")
            return None
        data = self._path(text)
        if not data.exists():
            self._wrong(f"{where}.data", f"{shown(data)} does not exist", "correct the path")
        return data

    def _names(self, value: Any, where: str) -> tuple[str, ...] | None:
        """A list of names, or a file with one a line."""
        if isinstance(value, str):
            path = self._path(value)
            try:
                lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
            except (OSError, UnicodeDecodeError) as error:
                reason = getattr(error, "strerror", None) or "no UTF-8 text"
                self._wrong(where, f"cannot read {shown(path)} ({reason})", "give a text file, one name a line")
                return None
            value = [line.strip() for line in lines]
        return self._texts(value, where) if value is not None else None

    def _templates(self, value: Any) -> str | tuple[str, ...] | None:
        if value is None or (isinstance(value, str) and value in TEMPLATE_NAMES):
            return value
        if isinstance(value, str) and "{}" not in value:
            hint = did_you_mean(value, TEMPLATE_NAMES)
            self._wrong(
                "templates", f"must be {' or '.join(TEMPLATE_NAMES)} or sentences with {{}}; got {value!r}{hint}"
            )
            return None
        sentences = self._texts([value] if isinstance(value, str) else value, "templates")
        for sentence in [s for s in sentences or () if s.count("{}") != 1]:
            self._wrong("templates", f"each must have one {{}} for the class name; got {sentence!r}")
        return sentences

    def _texts(self, value: Any, where: str) -> tuple[str, ...] | None:
        if not isinstance(value, list) or not value:
            self._wrong(where, f"must be a list of names; got {_kind(value)}", 'write ["a", "b"]')
            return None
        for position, entry in enumerate(value, start=1):
            if not isinstance(entry, str) or not entry.strip():
                self._wrong(where, f"entry {position} must be text; got {shown(repr(entry), 40)}", "put it in quotes")
                return None
        return tuple(value)

    def _text(self, value: Any, where: str) -> str | None:
        if isinstance(value, str) and value.strip():
            return value
        if value is not None:
            self._wrong(where, f"must be text; got {shown(repr(value), 40)}", "put it in quotes")
        return None

    def _choice(self, value: Any, allowed: tuple[str, ...], where: str) -> str | None:
        if value is None or (isinstance(value, str) and value in allowed):
            return value
        got = shown(repr(value), 40)
        self._wrong(where, f"must be one of {', '.join(allowed)}; got {got}{did_you_mean(value, allowed)}")
        return None

    def _keys(self, value: Any, allowed: tuple[str, ...], where: str, example: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            self._wrong(where, f"must be a table of keys; got {_kind(value)}", f"write {example}")
            return {}
        for key in [key for key in value if key not in allowed]:
            self._wrong(where, f"unknown key {shown(repr(key), 40)}{did_you_mean(key, allowed)}")
        return {key: entry for key, entry in value.items() if key in allowed}

    def _shift_names(self, shifts: dict[Any, Any]) -> None:
        """Names become file names and headings."""
        seen: dict[str, str] = {}
        for name in list(shifts):
            text = name if isinstance(name, str) else ""
            if not text.strip() or not text.isprintable() or set(text) & set('/\\:*?"<>|') or text[0] in ". ":
                self._wrong("shifts", f"{shown(repr(name), 40)} cannot be a name", "use letters, digits, - and _")
                del shifts[name]
            elif text.casefold() == "id" or text.startswith("select-"):
                self._wrong("shifts", f"{text!r} is taken (id, select-...)", "choose another name")
            elif seen.setdefault(text.casefold(), text) != text:
                self._wrong("shifts", f"{text!r} and {seen[text.casefold()]!r} differ in case only", "rename one")

    def _path(self, text: str) -> Path:
        return self.path.parent / Path(text).expanduser()

    def _wrong(self, where: str, what: str, cure: str | None = None) -> None:
        self.problems.append(f"{where}: {what}{', ' + cure if cure else ''}")


def _kind(value: Any) -> str:
    return "nothing" if value in (None, [], "") else type(value).__name__
