"""The next batch is made while the device works on this one."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """What ``make`` gives for a step, made by a thread one step ahead where steps follow each other.

    As ``make`` is a pure function of the step, what is taken does not depend on being ahead; an error of it is raised
    where its step is taken.

    Args:
        make: step to batch; called by one thread at a time.
        end: first step that is never taken.
    """

    def __init__(self, make: Callable[[int], T], end: int) -> None:
        self._make, self._end = make, end
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="tracerft-ahead")
        self._next: tuple[int, Future[T]] | None = None

    def take(self, step: int) -> T:
        """The batch of ``step``; that of the next one is begun."""
        if self._next is None or self._next[0] != step:
            self._next = (step, self._pool.submit(self._make, step))
        made = self._next[1].result()
        self._next = (step + 1, self._pool.submit(self._make, step + 1)) if step + 1 < self._end else None
        return made
