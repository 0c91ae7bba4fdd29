"""A table file as rows: CSV, TSV, JSON lines, in whatever encoding and with whatever delimiter they come.

Imports `errors` and `text` only.
"""

import codecs
import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracerft.data.text import first_five, shown
from tracerft.errors import DataError

TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl")
DELIMITERS = (",", ";", "\t", "|")
MAX_BYTES = 1 << 30  # a table is held in memory whole, several times over
_LOOK = 50  # records that decide on the delimiter
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


@dataclass
class Table:
    """Rows of a table.

    Args:
        path: the file.
        columns: names found.
        rows: line number and cells by column.
        warnings: what was assumed.
    """

    path: Path
    columns: tuple[str, ...]
    rows: Iterator[tuple[int, Mapping[str, Any]]]
    warnings: list[str] = field(default_factory=list)


def read_table(path: Path, *, delimiter: str | None = None, encoding: str | None = None) -> Table:
    """Open a table by its ending.

    Args:
        path: ``.csv``, ``.tsv``, ``.txt`` (all delimited text with a header) or ``.jsonl``.
        delimiter: one character; by default the one of ``, ; tab |`` that makes even columns.
        encoding: by default UTF-8, UTF-16 if it looks so, else Windows-1252 with a warning.

    Raises:
        DataError: if it cannot be read as that, or is larger than `MAX_BYTES`.
    """
    try:
        size = path.stat().st_size
        raw = path.read_bytes() if size <= MAX_BYTES else b""
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be read ({error.strerror}); check the path") from error
    if size > MAX_BYTES:
        raise DataError(
            f"{shown(path)}: a table of {size >> 20} MiB, the limit is {MAX_BYTES >> 20} MiB; shorten it, or pack the "
            "images into tars"
        )
    text, warnings = decode_text(raw, shown(path), encoding)
    if not text.strip():
        raise DataError(f"{shown(path)}: the table is empty; expected a header line and one line a sample")
    if path.suffix.lower() == ".jsonl":
        return _json_table(path, text, warnings)
    return _delimited(path, text, delimiter, warnings)


def decode_text(raw: bytes, where: str, encoding: str | None = None) -> tuple[str, list[str]]:
    """Bytes to text, and a warning if the encoding had to be guessed.

    Raises:
        DataError: if no encoding fits, or the text is binary.
    """
    warnings: list[str] = []
    guess = encoding or next((name for bom, name in _BOMS if raw.startswith(bom)), None) or _utf16_without_bom(raw)
    try:
        try:
            text = raw.decode(guess or "utf-8")
        except UnicodeDecodeError:
            if guess:
                raise
            text = raw.decode("cp1252")
            warnings.append(f"{where}: not UTF-8, read as Windows-1252; give encoding=NAME if letters look wrong")
    except (UnicodeError, LookupError) as error:
        raise DataError(
            f"{where}: cannot be read as {guess or 'UTF-8 or Windows-1252'} text ({error.__class__.__name__}); save it "
            "as UTF-8, or give encoding=NAME"
        ) from error
    if "\0" in text:
        raise DataError(f"{where}: holds NUL characters, so it is binary or damaged; save it as UTF-8 text")
    return text.removeprefix("\ufeff"), warnings


def _utf16_without_bom(raw: bytes) -> str | None:
    head = raw[:2000]
    if len(head) < 4 or len(raw) % 2 or b"\0" not in head:
        return None
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if odd > 0.4 * len(head) / 2 and even == 0:
        return "utf-16-le"
    return "utf-16-be" if even > 0.4 * len(head) / 2 and odd == 0 else None


def _records(text: str, delimiter: str, where: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    line = 1
    try:
        for record in reader:
            if any(cell.strip() for cell in record):
                yield line, record
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f'{where}, from line {line} on: {error}; probably a quote (") that is not closed or not doubled; correct '
            "it, or use JSON lines"
        ) from error


def _evenness(text: str, delimiter: str, where: str) -> tuple[float, int]:
    """Share of the first records with as many cells as the header, and that number."""
    widths = []
    try:
        for _, record in _records(text, delimiter, where):
            widths.append(len(record))
            if len(widths) == _LOOK:
                break
    except DataError:
        pass  # reported when the chosen delimiter is used
    if not widths or widths[0] < 2:
        return 0.0, 1
    return sum(width == widths[0] for width in widths) / len(widths), widths[0]


def _delimited(path: Path, text: str, delimiter: str | None, warnings: list[str]) -> Table:
    where = shown(path)
    if delimiter is None:
        delimiter = max(DELIMITERS, key=lambda d: _evenness(text, d, where))
    elif len(delimiter) != 1 or delimiter in '"\r\n':
        raise DataError(f"{where}: `delimiter` must be one character; got {delimiter!r}; leave it out to have it found")
    records = _records(text, delimiter, where)
    first_line, first = next(records)
    header = [cell.strip() for cell in first]
    while header and not header[-1]:
        header.pop()
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice or not all(header):
        what = f"the column {shown(twice[0])!r} occurs twice" if twice else "a column has no name"
        raise DataError(f"{where}, line {first_line}: {what} in the header ({first_five(header)}); give each its own")
    return Table(path, tuple(header), _cells(records, header, where), warnings)


def _cells(
    records: Iterator[tuple[int, list[str]]], header: list[str], where: str
) -> Iterator[tuple[int, dict[str, str]]]:
    for line, record in records:
        while len(record) > len(header) and not record[-1].strip():
            record.pop()
        if len(record) != len(header):
            raise DataError(
                f"{where}, line {line}: {len(record)} cells where the header has {len(header)}; put quotes around "
                "cells that hold the delimiter"
            )
        yield line, dict(zip(header, record, strict=True))


def _json_table(path: Path, text: str, warnings: list[str]) -> Table:
    rows = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    where = shown(path)
    columns = dict.fromkeys(
        name for number, line in rows[:_LOOK] for name in json_object(line, f"{where}, line {number}")
    )
    return Table(
        path,
        tuple(columns),
        ((number, json_object(line, f"{where}, line {number}")) for number, line in rows),
        warnings,
    )


def json_object(text: str | bytes, where: str) -> dict[str, Any]:
    """One JSON object.

    Raises:
        DataError: if it is none.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: bad JSON, bad UTF-8, or a number of 4,300 digits
        raise DataError(f"{where}: not valid JSON ({shown(error, 80)}); correct it") from error
    if not isinstance(value, dict):
        raise DataError(
            f'{where}: expected one object such as {{"image": "a.jpg", "caption": "a cat"}}; got {type(value).__name__}'
        )
    return value
