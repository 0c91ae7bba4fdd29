"""A polite end: a signal asks, the step is finished and saved, then the run stops."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from tracerft.distributed import World
from tracerft.errors import StoppedError

# What clusters send before they kill, and Ctrl-C; each with the handler that may be replaced for a while.
ASKING: dict[str, Any] = {
    "SIGTERM": signal.SIG_DFL,
    "SIGUSR1": signal.SIG_DFL,
    "SIGINT": signal.default_int_handler,
}


class StopRequest:
    """Whether a signal has asked the run to stop; ``signum`` is the last one."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """The handler itself."""
        if signum == self.signum == signal.SIGINT:  # Ctrl-C twice means now; a scheduler may well repeat itself
            raise KeyboardInterrupt
        self.signum = signum

    def asked(self, world: World) -> bool:
        """Whether it has, on any rank; all are asked in the same step and so stop after the same."""
        found = world.largest(self.signum or 0)
        if found:  # one that came meanwhile stays for the next step
            self.signum = found
        return found > 0

    def refuse_to_go_on(self, done: str) -> None:
        """Raise if it has; ``done`` says what is saved and how to go on.

        Raises:
            KeyboardInterrupt: for Ctrl-C.
            StoppedError: for the other signals.
        """
        if self.signum == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signum is not None:
            raise StoppedError(f"{signal.Signals(self.signum).name} came: {done}")


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Listen for signals while this lasts; a program's own handlers, and other threads than the main one, are left be.

    Yields:
        What to ask after every step.
    """
    request, before = StopRequest(), {}
    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in ASKING if hasattr(signal, name)):
            if signal.getsignal(number) is ASKING[signal.Signals(number).name]:
                before[number] = signal.signal(number, request)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
