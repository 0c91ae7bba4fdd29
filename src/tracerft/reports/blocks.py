"""The sections a report is made of, and their HTML.

Every text passes through `escape`; only drawings checked by `svg.inline` are put in as they are.
"""

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tracerft.reports.tables import MISSING

Better = Literal["higher", "lower"] | None
# Verdict -> class of the badge, its words. A sign in front, so that colour is not the only carrier.
VERDICTS: dict[bool | None, tuple[str, str]] = {
    True: ("holds", "✓ holds"),
    False: ("fails", "✗ does not hold"),
    None: ("untested", "– open"),
}


@dataclass(frozen=True)
class Column:
    """Head of a table column; ``better`` decides which way the first press on it sorts."""

    label: str
    unit: str = ""
    better: Better = None
    numeric: bool = True


@dataclass(frozen=True)
class Cell:
    """What a cell shows and what it is sorted by; ``value`` ``None`` sorts last."""

    text: str
    value: float | str | None = None
    best: bool = False


@dataclass(frozen=True)
class Text:
    """Paragraphs of plain text."""

    title: str
    paragraphs: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A sortable table; the first cell of each row is its head."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    collapsed: bool = False


@dataclass(frozen=True)
class Figure:
    """One drawing. ``svg`` must come from `figures` by way of `svg.inline`; it is not escaped."""

    title: str
    svg: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Figures:
    """Drawings side by side where there is room."""

    title: str
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Claims:
    """The paper's claims beside ours: each ``{"id", "paper", "ours", "holds", "note"}``."""

    title: str
    claims: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Repeat:
    """Collapsed: the command and whatever decided the numbers, in named groups."""

    title: str
    command: str
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """One small JPEG; ``lines`` stand below it, the first as its name, and are read aloud instead of it."""

    jpeg: bytes
    lines: Sequence[str]


@dataclass(frozen=True)
class Album:
    """Pictures that belong together, in rows with a heading each."""

    title: str
    rows: Mapping[str, Sequence[Picture]]


@dataclass(frozen=True)
class Albums:
    """Albums that fold, the first few open."""

    title: str
    note: str
    albums: Sequence[Album]


Section = Text | Table | Figure | Figures | Albums | Claims | Repeat
OPEN = 3  # albums that need no press


def escape(value: object) -> str:
    """Text for HTML content and quoted attributes; control characters and lone surrogates become a space."""
    text = MISSING if value is None else str(value)
    clean = "".join(" " if _unprintable(ord(c)) else c for c in text)
    return html.escape(clean, quote=True)


def render(section: Section, anchor: str) -> str:
    """HTML of one section.

    Args:
        section: what to show.
        anchor: its id in the page, unique there.

    Returns:
        A ``<section>`` element.
    """
    match section:
        case Text():
            body = "".join(f"<p>{escape(p)}</p>" for p in section.paragraphs)
        case Table(collapsed=True):
            rows = f"{len(section.rows)} rows"
            body = f"<details><summary>Show {rows}</summary>{_table(section, anchor)}</details>"
        case Table():
            body = _table(section, anchor)
        case Figure():
            body = _figure(section, anchor)
        case Figures():
            parts = (
                f"<div><h3>{escape(f.title)}</h3>{_figure(f, f'{anchor}-{i}')}</div>"
                for i, f in enumerate(section.figures)
            )
            body = f'<div class="figures">{"".join(parts)}</div>'
        case Albums():
            note = f'<p class="quiet">{escape(section.note)}</p>'
            body = note + "".join(_album(album, place < OPEN) for place, album in enumerate(section.albums))
        case Claims():
            body = _claims(section, anchor)
        case Repeat():
            body = _repeat(section)
    title = f'<h2 id="{anchor}-title">{escape(section.title)}</h2>'
    return f'<section id="{anchor}" aria-labelledby="{anchor}-title">{title}{body}</section>\n'


def badge(holds: object) -> str:
    """A verdict as a coloured word; anything but true and false counts as not tested."""
    name, words = VERDICTS[holds if isinstance(holds, bool) else None]
    return f'<span class="badge {name}">{words}</span>'


def _unprintable(code: int) -> bool:
    return (code < 32 and code not in (9, 10)) or 127 <= code < 160 or 0xD800 <= code < 0xE000


def _table(table: Table, anchor: str) -> str:
    head = "".join(_head(column) for column in table.columns)
    rows = "".join(f"<tr>{_cells(row, table.columns)}</tr>\n" for row in table.rows)
    note = f'<p class="quiet note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-labelledby="{anchor}-title">'
        f'<table data-sortable aria-labelledby="{anchor}-title"><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{rows}</tbody></table></div>{note}"
    )


def _head(column: Column) -> str:
    unit = f' <span class="unit">({escape(column.unit)})</span>' if column.unit else ""
    kind, look = ("number", ' class="number"') if column.numeric else ("text", "")
    first = "descending" if column.better == "higher" else "ascending"
    label = escape(column.label)
    return f'<th scope="col"{look} data-sort="{kind}" data-first="{first}" aria-sort="none">{label}{unit}</th>'


def _cells(row: Sequence[Cell], columns: Sequence[Column]) -> str:
    parts = []
    for index, (cell, column) in enumerate(zip(row, columns, strict=True)):
        tag = "td" if index else "th"
        names = " ".join(n for n, yes in (("number", column.numeric), ("best", cell.best)) if yes)
        look = f' class="{names}"' if names else ""
        value = "" if cell.value is None else f' data-value="{escape(cell.value)}"'
        scope = "" if index else ' scope="row"'
        parts.append(f"<{tag}{scope}{look}{value}>{escape(cell.text)}</{tag}>")
    return "".join(parts)


def _figure(figure: Figure, anchor: str) -> str:
    # The wrapper is focusable, so that a keyboard can scroll a drawing wider than the screen.
    return (
        f'<figure><div class="drawing" role="img" tabindex="0" aria-label="{escape(figure.alt)}" '
        f'aria-describedby="{anchor}-caption">{figure.svg}</div>'
        f'<figcaption id="{anchor}-caption">{escape(figure.caption)}</figcaption></figure>'
    )


def _album(album: Album, unfolded: bool) -> str:
    rows = "".join(
        f'<h3>{escape(title)}</h3><ul class="pictures">{"".join(map(_picture, pictures))}</ul>'
        for title, pictures in album.rows.items()
    )
    return f"<details{' open' if unfolded else ''}><summary><bdi>{escape(album.title)}</bdi></summary>{rows}</details>"


def _picture(picture: Picture) -> str:
    # The alternative text says what the caption says, so the caption is not read aloud once more.
    name, *rest = picture.lines
    said = "".join(f'<span class="quiet"><bdi>{escape(line)}</bdi></span>' for line in rest)
    source = f"data:image/jpeg;base64,{base64.b64encode(picture.jpeg).decode()}"
    return (
        f'<li><figure><img src="{source}" alt="{escape("; ".join(picture.lines))}">'
        f'<figcaption aria-hidden="true"><strong><bdi>{escape(name)}</bdi></strong>{said}</figcaption></figure></li>'
    )


def _claims(section: Claims, anchor: str) -> str:
    rows = ""
    for c in section.claims:
        cells = (badge(c.get("holds")), escape(c.get("paper")), escape(c.get("ours")), escape(c.get("note") or ""))
        rows += f'<tr><th scope="row">{escape(c.get("id"))}</th><td>{"</td><td>".join(cells)}</td></tr>\n'
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Claim", "Verdict", "Paper", "Here", "Note"))
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-labelledby="{anchor}-title">'
        f'<table class="claims" aria-labelledby="{anchor}-title"><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{rows}</tbody></table></div>"
    )


def _repeat(section: Repeat) -> str:
    command = f"<pre><code>{escape(section.command)}</code></pre>" if section.command else ""
    groups = "".join(
        f"<div><h3>{escape(name)}</h3><dl>"
        + "".join(f"<dt>{escape(key)}</dt><dd>{escape(_fact(value))}</dd>" for key, value in facts.items())
        + "</dl></div>"
        for name, facts in section.facts.items()
        if facts
    )
    head = "<summary>Command, settings and versions</summary>"
    return f'<details>{head}{command}<div class="facts">{groups}</div></details>'


def _fact(value: object) -> str | None:
    """Lists and small objects on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_fact(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(str(_fact(item)) for item in value)
    return None if value is None else str(value)
