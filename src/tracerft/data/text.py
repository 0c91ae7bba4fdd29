"""Names and captions made safe: for one-line messages, for tokenizers, for prompts.

Imports nothing of the project.
"""

import unicodedata
from collections.abc import Iterable, Sequence

_SHOWN = 5


def shown(name: object, limit: int = 120) -> str:
    """A name on one printable line: control and undecodable characters escaped, the middle of a long one left out."""
    text = str(name)
    safe = "".join(
        c if c.isprintable() and not 0xD800 <= ord(c) <= 0xDFFF else c.encode("unicode_escape").decode() for c in text
    )
    return safe if len(safe) <= limit else f"{safe[: limit // 2]}...{safe[-limit // 2 :]}"


def first_five(names: Iterable[object]) -> str:
    """``a, b, c, d, e and 7 more``."""
    everything = list(names)
    rest = len(everything) - _SHOWN
    return ", ".join(shown(n) for n in everything[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def clean_caption(text: str) -> tuple[str, bool]:
    """A caption on one line, without what no tokenizer or file can hold.

    White space runs become one space; NUL goes; a lone surrogate becomes U+FFFD. Emoji and
    right-to-left text stay as they are.

    Returns:
        The caption and whether a broken character was taken out.
    """
    if text.isascii() and "\0" not in text:
        return " ".join(text.split()), False
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "")
    return " ".join(whole.split()), whole != text


def readable(name: str) -> str:
    """A class name as a prompt says it: ``_`` and ``-`` read as spaces; bytes that are not UTF-8 read as Latin-1."""
    if any(0xDC80 <= ord(c) <= 0xDCFF for c in name):
        name = name.encode("utf-8", "surrogateescape").decode("latin-1")
    name = "".join(" " if unicodedata.category(c) == "Cc" else c for c in name)
    return " ".join(name.replace("_", " ").replace("-", " ").split())


def match_key(name: str) -> str:
    """What two spellings of one class name have in common."""
    return unicodedata.normalize("NFC", readable(name)).casefold()


def repeated(names: Sequence[str]) -> list[str]:
    """The names whose `match_key` occurs more than once, in order."""
    seen: dict[str, list[str]] = {}
    for name in names:
        seen.setdefault(match_key(name), []).append(name)
    return [name for group in seen.values() if len(group) > 1 for name in group]
