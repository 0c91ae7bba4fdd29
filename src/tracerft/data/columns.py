"""Which column of a table means what: said by the user, or guessed where the name is plain."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tracerft.data.paths import is_image_name
from tracerft.data.text import shown
from tracerft.errors import ArgumentError, DataError, did_you_mean, one_of

ROLES = ("image", "caption", "label")
GROUP = "group"  # never guessed, and read for evaluation only
_OBVIOUS = {
    "image": "image img file filename file_name filepath file_path path image_path image_file image_name img_path",
    "caption": "caption captions text texts txt title description sentence sentences alt_text",
    "label": "label labels class classname class_name category target cls",
}
_FIELD = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True)
class Columns:
    """What to read from a row.

    Args:
        image, caption, label, group: a column, a pattern of columns such as ``noto/{codepoint}.png``, or
            ``None``.
    """

    image: str | None
    caption: str | None
    label: str | None
    group: str | None = None

    def value(self, role: str, row: Mapping[str, Any]) -> Any:
        """The cell, or the pattern filled from the row; ``None`` where the row has nothing."""
        pick: str | None = getattr(self, role)
        if pick is None or pick in row or not _FIELD.search(pick):
            return row.get(pick) if pick is not None else None
        return _FIELD.sub(lambda m: str(row.get(m[1], "")), pick)


def check_columns(columns: Mapping[str, str] | None) -> dict[str, str]:
    """The user's choice of columns, by role; an empty name means that there is none.

    Raises:
        ArgumentError: for a role that does not exist.
    """
    for role in columns or {}:
        one_of("columns", role, (*ROLES, GROUP))
    return {role: name for role, name in (columns or {}).items() if name is not None}


def pick_columns(header: Sequence[str], wanted: Mapping[str, str], where: str, roles: Sequence[str] = ROLES) -> Columns:
    """Decide which columns hold image, caption and label.

    Args:
        header: the column names found.
        wanted: the user's choice, by role; other roles are guessed.
        where: the table, for messages.
        roles: what to look for.

    Raises:
        DataError: if a wanted column does not exist, the image column cannot be guessed, a guess has
            more than one candidate, or there is neither caption nor label.
    """
    picked = {role: _pick(role, header, wanted, where) if role in roles else None for role in ROLES}
    listing = ", ".join(shown(name, 40) for name in header)
    if "image" in roles and picked["image"] is None:
        if any(is_image_name(name) for name in header):
            raise DataError(
                f"{where}: the first line looks like data ({listing}), not like column names; put a line such as "
                "image,caption before it"
            )
        raise DataError(
            f"{where}: no column is clearly the image; columns found: {listing}; say which one: columns.image=NAME"
        )
    if picked["caption"] is None and picked["label"] is None:
        raise DataError(
            f"{where}: no column is clearly a caption or a label; columns found: {listing}; say which one: "
            "columns.caption=NAME or columns.label=NAME"
        )
    return Columns(**picked, group=_pick(GROUP, header, wanted, where) if GROUP in wanted else None)


def _pick(role: str, header: Sequence[str], wanted: Mapping[str, str], where: str) -> str | None:
    listing = ", ".join(shown(name, 40) for name in header)
    if role in wanted:
        name = wanted[role]
        for part in [] if name in header else _FIELD.findall(name) or [name]:
            if part and part not in header:
                raise DataError(
                    f"{where}: {role if role == GROUP else f'columns.{role}'} names {shown(part)!r}, which is not there"
                    f"{did_you_mean(part, list(header))}; columns found: {listing}"
                )
        return name or None
    plain = {name: re.sub(r"[\s-]+", "_", name.strip().casefold()) for name in header}
    guesses = [name for name in header if plain[name] in _OBVIOUS[role].split()]
    exact = [name for name in guesses if plain[name] == role]
    if len(guesses) > 1 and len(exact) != 1:
        raise DataError(
            f"{where}: more than one column could be the {role}: {', '.join(guesses)}; say which one: "
            f"columns.{role}=NAME (columns found: {listing})"
        )
    return exact[0] if len(exact) == 1 else guesses[0] if guesses else None


def texts(value: Any, separator: str | None, where: str, role: str = "caption") -> list[str]:
    """One cell as captions: a string, split at ``separator`` if given, or a list of strings.

    Raises:
        DataError: if it is anything else.
    """
    if isinstance(value, str):
        parts = value.split(separator) if separator else [value]
        kept = [part for part in parts if part.strip()]
        return kept or [""]
    if isinstance(value, (list, tuple)) and value and all(isinstance(v, str) for v in value):
        return list(value)
    raise DataError(
        f"{where}: the {role} must be text or a list of texts; got {shown(repr(value), 60)}; correct that entry"
    )


def label_of(value: Any, where: str) -> str | int | None:
    """One cell as a label.

    Raises:
        DataError: if it is neither text nor a whole number.
    """
    if isinstance(value, str):
        return value.strip() or None
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise DataError(
        f"{where}: the label must be a class name or a whole number; got {shown(repr(value), 60)}; correct that entry"
    )


def group_of(value: Any, where: str) -> str | None:
    """One cell as the name of a group; ``None`` where it is empty.

    Raises:
        DataError: if it is neither text nor a whole number nor true or false.
    """
    if value is None or isinstance(value, (str, int)):
        return str("" if value is None else value).strip() or None
    raise DataError(f"{where}: the group must be text or a whole number; got {shown(repr(value), 60)}; correct it")


def check_separator(separator: str | None) -> None:
    """Refuse an empty separator of captions.

    Raises:
        ArgumentError: if it is empty.
    """
    if separator == "":
        raise ArgumentError("`separator` must not be empty; got ''; leave it out for one caption a cell")
