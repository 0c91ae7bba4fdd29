"""Whether the values of a configuration that was read from a file have the types of its fields."""

from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints


def wrong_types(config: Any, prefix: str = "") -> list[str]:
    """One clause for each value of another type than its field's, groups included.

    Args:
        config: a dataclass whose fields are classes, unions of them, or dataclasses of the same kind.
        prefix: of the names, such as ``train.``.
    """
    hints, wrong = get_type_hints(type(config)), []
    for name in (f.name for f in fields(config)):
        value, hint = getattr(config, name), hints[name]
        if isinstance(hint, type) and is_dataclass(hint) and isinstance(value, hint):
            wrong += wrong_types(value, f"{prefix}{name}.")
        elif not (isinstance(value, hint) or (isinstance(value, int) and isinstance(0.0, hint))):
            kind = getattr(hint, "__name__", None) or str(hint)
            wrong.append(f"`{prefix}{name}` must be {kind}; got {value!r}")
    return wrong
