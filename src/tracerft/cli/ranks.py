"""What a command prints that torchrun started several times: rank 0 all of it, the others only their errors.

Reads torchrun's variables without torch; `tracerft.distributed` checks them.
"""

import os

from tracerft.errors import ArgumentError


def rank() -> int:
    """This process's number; 0 alone."""
    text = os.environ.get("RANK", "0")
    return int(text) if _several() and text.isdecimal() else 0


def refuse_ranks(what: str) -> None:
    """Raise `ArgumentError` if there are several ranks."""
    if _several():
        raise ArgumentError(
            f"{what} takes one process; got WORLD_SIZE {os.environ['WORLD_SIZE']}; start it without torchrun"
        )


def _several() -> bool:
    return os.environ.get("WORLD_SIZE", "1") != "1"
