"""Griffe reads `Examples:` as code and `Example:`, which our docstrings say, as a remark; this makes them one."""

import re
from typing import Any

import griffe


class ExamplesAreCode(griffe.Extension):
    """Applied to the docstring of every object."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called with each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.M)
