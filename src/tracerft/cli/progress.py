"""Progress on stderr."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def _bar() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True))


@contextmanager
def training_progress(title: str) -> Iterator[Callable[[int, int, Mapping[str, float]], None]]:
    """A bar that shows step and loss."""
    with _bar() as bar:
        task = bar.add_task(title, total=None, note="")

        def show(step: int, total: int, terms: Mapping[str, float]) -> None:
            bar.update(task, completed=step, total=total, note=f"loss {terms['loss']:.3f}")

        yield show


@contextmanager
def study_progress(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar that shows how many runs are done and what the last one was."""
    with _bar() as bar:
        task = bar.add_task(title, total=None, note="")

        def show(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, note=what)

        yield show
