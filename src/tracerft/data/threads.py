"""How many threads read and decode."""

import os


def default_threads() -> int:
    """As many as this process may use cores, at most eight."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
