"""Log lines of other packages while a model is loaded: what matters is raised as one line instead."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Keep open_clip (which logs to the root logger) and the hub's retries off the terminal."""
    root, hub, null = logging.getLogger(), logging.getLogger("huggingface_hub"), logging.NullHandler()
    before = root.disabled, hub.level
    root.addHandler(null)  # else the first root-level call installs a handler for good
    root.disabled = True
    hub.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.removeHandler(null)
        root.disabled = before[0]
        hub.setLevel(before[1])
