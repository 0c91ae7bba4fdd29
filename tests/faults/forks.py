"""Runs in forked children of one quiet process, so that hundreds of them cost no import.

The process itself never trains: autograd's threads, where there are any, do not survive a fork.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import torch
import torch._dynamo

from tests.faults.points import POINTS
from tests.runs import TRAIN, contents, finetune
from tracerft import api, describe, running
from tracerft.cli import finetune as command
from tracerft.cli import main, progress

# Loaded here, once for all children; the optimiser's first step would else bring torch._dynamo, which takes a second.
LOADED = (api, describe, command, progress, torch._dynamo)
KILLED = -signal.SIGKILL


def start(call: Callable[[], Any]) -> int:
    """Fork; the child makes the call and ends with the number it returns, 0 for anything else, 99 after an error."""
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        result = call()
        code = result if isinstance(result, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int) -> int:
    """Exit code of a child, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Workshop:
    """Runs of one method on the small digits, each in a child and a folder of its own.

    Args:
        folder: for all of them.
        model, data: of the fixtures ``small_model`` and ``digits_folder``.
        options: of `tracerft.finetune`.
    """

    def __init__(self, folder: Path, model: Path, data: Path, **options: Any) -> None:
        self.folder, self.model, self.data, self.options = folder, model, data, options
        folder.mkdir(parents=True)
        running.write_run_report = api.write_run_report = lambda out: (out / "report.html").write_text("")
        began = time.perf_counter()
        assert ended(start(lambda: self._count(folder / "unbroken"))) == 0
        self.seconds = time.perf_counter() - began
        self.expected = contents(folder / "unbroken")
        self.counts = dict(zip(POINTS, map(int, (folder / "counts").read_text().split()), strict=True))

    def _count(self, out: Path) -> None:
        """The unbroken run, which also tells how often each point is passed."""
        counts = dict.fromkeys(POINTS, 0)
        for name, install in POINTS.items():
            install(lambda name=name: counts.update({name: counts[name] + 1}))  # None, so nothing dies
        self.go_on(out)
        (self.folder / "counts").write_text(" ".join(map(str, counts.values())))

    def go_on(self, out: Path) -> None:
        """What a user does who finds the folder: resume, or start where nothing was begun."""
        finetune(self.model, self.data, out, resume=(out / "config.yaml").is_file(), **self.options)

    def dying(self, out: Path, point: str, number: int) -> int:
        """Exit code of a run that kills itself the ``number``-th time it reaches a point."""

        def call() -> None:
            left = [number]

            def hit() -> bool:
                left[0] -= 1
                return left[0] == 0

            POINTS[point](hit)
            self.go_on(out)

        return ended(start(call))

    def finished(self, out: Path) -> list[str]:
        """Go on to the end; names of what then differs from the unbroken run."""
        code = ended(start(lambda: self.go_on(out)))
        if code != 0:
            return [f"exit code {code}"]
        found = contents(out)
        return sorted(name for name in found | self.expected if found.get(name) != self.expected.get(name))

    def command(self, *arguments: str, prepare: Callable[[], Any] = lambda: None) -> tuple[int, list[str]]:
        """Exit code and lines on stderr of a command line in a child, which calls ``prepare`` first."""
        pid, err = self.spoken(*arguments, prepare=prepare)
        lines = err.read().splitlines()
        return ended(pid), lines

    def spoken(self, *arguments: str, prepare: Callable[[], Any] = lambda: None) -> tuple[int, TextIO]:
        """The same, not waited for: its id and its stderr (a pipe, which has no size to limit)."""
        reading, writing = os.pipe()

        def call() -> int:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(writing, 2)
            prepare()
            return main.run(["finetune", *arguments])

        pid = start(call)
        os.close(writing)
        return pid, os.fdopen(reading)

    def new(self, out: Path) -> list[str]:
        """Arguments of a run from the start, for tracer."""
        options = [f"--train.{key}={value}" for key, value in (TRAIN | self.options.get("train", {})).items()]
        return ["--model", str(self.model), "--data", str(self.data), "--out", str(out), *options]
