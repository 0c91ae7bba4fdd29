"""The log of a run, metrics.jsonl, as plain lines."""

import json
import math
from pathlib import Path
from typing import Any

from tracerft.errors import DataError


def read_log(path: Path) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl with ``parts`` laid flat; a last line cut short by a crash is left out.

    Args:
        path: the file; one that does not exist has no lines.

    Raises:
        DataError: if a line before the last is no JSON object.
    """
    if not path.exists():
        return []
    texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    lines = []
    for index, text in enumerate(texts, start=1):
        try:
            line = json.loads(text) if text.strip() else {}
            lines.append({**line, **(line.get("parts") or {})})
        except (json.JSONDecodeError, TypeError, AttributeError):
            if index < len(texts):
                raise DataError(
                    f"{path}, line {index}, must be a JSON object; got {text[:40]!r}; remove that line and try again"
                ) from None
    return lines


def finite(value: object) -> bool:
    """Whether a logged value is a number that can be drawn."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
