"""The tutorial's script as a notebook and as a page: python tools/percent.py docs/tutorial.py writes the notebook.

A script in the percent format is cells, each after a line `# %%` (code) or `# %% [markdown]` (text behind `# `).
"""

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple


class Cell(NamedTuple):
    """A cell: `markdown` or `code`, and its text."""

    kind: str
    text: str


def cells(script: str) -> list[Cell]:
    """The cells of a script, without blank lines around their text.

    Raises:
        ValueError: if something stands before the first cell, or a line of text is no comment.
    """
    before, *parts = re.split(r"^# %%(.*)\n", script, flags=re.M)
    if before.strip():
        raise ValueError(f"a percent script must begin with `# %%`; got {before.strip().splitlines()[0]!r}")
    return [_cell(mark.strip(), body.strip()) for mark, body in zip(parts[::2], parts[1::2], strict=True)]


def _cell(mark: str, body: str) -> Cell:
    if not mark:
        return Cell("code", body)
    lines = body.splitlines()
    wrong = [line for line in lines if not re.match("# |#$", line)]
    if mark != "[markdown]" or wrong:
        raise ValueError(f"expected `# %%` or `# %% [markdown]` with `# ` before each line; got {[mark, *wrong][-1]!r}")
    return Cell("markdown", "\n".join(line[2:] for line in lines))


def notebook(script: str) -> dict[str, Any]:
    """A notebook of format 4.5 without outputs; a cell's id follows from its text, so that it stays in a diff."""
    made: list[dict[str, Any]] = []
    for kind, text in cells(script):
        name = hashlib.sha256(f"{kind}\n{text}".encode()).hexdigest()[:8]
        cell = {"cell_type": kind, "id": name, "metadata": {}, "source": text.splitlines(keepends=True)}
        made.append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def written(script: str) -> str:
    """The notebook's file."""
    return json.dumps(notebook(script), indent=1, ensure_ascii=False) + "\n"


def page(script: str) -> str:
    """The same as Markdown."""
    return "\n\n".join(c.text if c.kind == "markdown" else f"```python\n{c.text}\n```" for c in cells(script)) + "\n"


if __name__ == "__main__":
    source = Path(sys.argv[1])
    source.with_suffix(".ipynb").write_text(written(source.read_text("utf-8")), "utf-8")
