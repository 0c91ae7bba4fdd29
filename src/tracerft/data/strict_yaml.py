"""YAML that people write by hand, without its traps: no duplicate keys, no aliases, no tags that build objects."""

from pathlib import Path
from typing import Any

import yaml

from tracerft.data.text import shown
from tracerft.errors import DataError

MAX_BYTES = 1 << 20


def read_strict_yaml(path: Path) -> Any:
    """Plain data from a YAML file.

    Args:
        path: at most 1 MiB of UTF-8.

    Raises:
        DataError: if the file cannot be read or parsed, is too large, names a key twice, or uses aliases or tags.
    """
    try:
        size, text = path.stat().st_size, ""
        if size <= MAX_BYTES:
            text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}); give a YAML file") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is no UTF-8 text; give a YAML file") from None
    if size > MAX_BYTES:
        raise DataError(f"{path} is larger than {MAX_BYTES} bytes; expected a short text file; check the path")
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise DataError(f"{path}{line}: {shown(error.problem or error)}; correct the YAML") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: a date such as 2026-13-45
        raise DataError(f"{path} is not YAML ({shown(' '.join(str(error).split()))}); correct it") from None


class _StrictLoader(yaml.SafeLoader):
    """The safe loader, which builds plain data only, and refuses what reads other than it looks."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):  # a few lines of aliases can stand for gigabytes
            raise yaml.MarkedYAMLError(
                problem="aliases (*name) are not read; write the value out", problem_mark=self.get_mark()
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} is there twice", problem_mark=key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep=deep)
