"""A command with something it cannot use, and what the tests of it share."""

from dataclasses import dataclass
from pathlib import Path

from tests.badinput.door_makers import Make, text
from tests.data.pictures import class_set, table

LONG = "x" * 300  # longer than a name may be
FILE = text("f", "x")


@dataclass(frozen=True)
class Door:
    """``says`` is a pattern in the last line on stderr, or anywhere where the command goes on (``code`` 0)."""

    arguments: list[str]
    says: str
    make: Make | None = None
    code: int = 2


def classes(**options) -> Make:
    """Class folders in ``data``."""
    return lambda: class_set(Path("data"), **options)


def both(make: Make, *more: Make) -> Make:
    """One after the other."""
    return lambda: [each() for each in (make, *more)]


def captions(rows: str) -> Make:
    """A table in ``data``, beside a.png and b.png."""
    return lambda: table(Path("data"), "image,caption\n" + rows)
