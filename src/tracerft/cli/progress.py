"""Progress on stderr."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

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
def _on_first_use(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar that appears with the first update, so that a mistake in the options is one line alone."""
    bar = _bar()
    task = bar.add_task(title, total=None, note="")
    with ExitStack() as stack:

        def update(done: int, total: int, note: str) -> None:
            if not bar.live.is_started:
                stack.enter_context(bar)
            bar.update(task, completed=done, total=total, note=note)

        yield update


@contextmanager
def training_progress(title: str) -> Iterator[Callable[[int, int, Mapping[str, float]], None]]:
    """A bar that shows step and loss."""
    with _on_first_use(title) as update:

        def show(step: int, total: int, terms: Mapping[str, float]) -> None:
            update(step, total, f"loss {terms['loss']:.3f}")

        yield show


@contextmanager
def study_progress(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar that shows how many runs are done and what the last one was."""
    with _on_first_use(title) as update:
        yield update
