"""Runs of several ranks in forked children: one is killed, hung or asked to stop, and what the others do then."""

import datetime
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from tests.faults.disk import on_call, until
from tests.faults.forks import KILLED, Workshop, ended
from tests.faults.points import POINTS
from tests.runs import contents
from tracerft import distributed
from tracerft.training import trainer
from tracerft.training.checkpoint import newest_checkpoint

LIMIT = 120.0  # seconds after which a rank that has not ended counts as hung for good
Prepare = Callable[[int], Any]
Rank = tuple[int, TextIO]
SOME = {  # rank, point: which time of it, in every test run
    (0, "checkpoint, before its rename"): 1,
    (0, "evaluation"): 1,
    (1, "optimiser step"): 5,
}


class Ranks:
    """Runs of two ranks; the unbroken one is made first.

    Args:
        shop: for folder, model, data and options.
    """

    def __init__(self, shop: Workshop) -> None:
        self.shop, self.folder = shop, shop.folder / "ranks"
        self.folder.mkdir()
        out = self.folder / "unbroken"
        codes = [code for code, _ in self.run(out, self._counting)]
        assert codes == [0, 0]
        self.expected = contents(out)
        self.counts = [
            dict(zip(POINTS, map(int, (self.folder / f"counts-{rank}").read_text().split()), strict=True))
            for rank in range(2)
        ]

    def _counting(self, rank: int) -> None:
        """Keep a file that tells how often each point is passed."""
        counts, file = dict.fromkeys(POINTS, 0), self.folder / f"counts-{rank}"

        def passed(name: str) -> None:
            counts[name] += 1
            file.write_text(" ".join(map(str, counts.values())))

        for name, install in POINTS.items():
            install(lambda name=name: passed(name))  # None, so nothing dies

    def start(self, out: Path, prepare: Prepare = lambda rank: None, size: int = 2) -> list[Rank]:
        """Ranks that begin a run, or go on with it, each after ``prepare``: ids and stderr."""
        # Once for all: the first rank might have made the folder before the second looks.
        arguments = ["--resume", str(out)] if (out / "config.yaml").is_file() else self.shop.new(out)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}

        def become(rank: int) -> None:
            os.environ.update(shared | {"RANK": str(rank)})
            prepare(rank)

        return [self.shop.spoken(*arguments, prepare=lambda rank=rank: become(rank)) for rank in range(size)]

    def run(self, out: Path, prepare: Prepare = lambda rank: None) -> list[tuple[int | None, list[str]]]:
        """Exit code and lines of each rank."""
        return [finished(rank) for rank in self.start(out, prepare)]

    def differs(self, out: Path) -> list[str]:
        """Go on to the end with two ranks; names of what then differs from their unbroken run."""
        codes = [code for code, _ in self.run(out)]
        if codes != [0, 0]:
            return [f"exit codes {codes}"]
        found = contents(out)
        return sorted(name for name in found | self.expected if found.get(name) != self.expected.get(name))


def finished(rank: Rank) -> tuple[int | None, list[str]]:
    """Exit code and lines of a rank; no code for one that had to be killed after `LIMIT`."""
    pid, err = rank
    try:
        until(lambda: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None, LIMIT)
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        ended(pid)
        return None, err.read().splitlines()
    return ended(pid), err.read().splitlines()


def impatient(seconds: float) -> None:
    """So that a rank which waits for one that never comes ends within the test."""
    distributed.IN_A_STEP = datetime.timedelta(seconds=seconds)
    distributed.A_SIGN = datetime.timedelta(seconds=2)


def kill_at(ranks: Ranks, rank: int, point: str, number: int) -> dict[str, Any]:
    """One rank dies at a point; how the other ended, and what differs after both were resumed."""
    out = ranks.folder / f"{rank}-{point}-{number}".replace(" ", "-")

    def prepare(this: int) -> None:
        if this == rank:
            left = iter(range(1, number + 1))
            POINTS[point](lambda: next(left, 0) == number)

    ends = ranks.run(out, prepare)
    code, lines = ends[1 - rank]
    return {
        "point": point, "rank": rank, "number": number, "killed": ends[rank][0] == KILLED, "other": code,
        "lines": lines, "differs": ranks.differs(out),
    }  # fmt: skip


def kill_at_random(ranks: Ranks, number: int, seconds: float, seed: int = 0) -> dict[str, Any]:
    """SIGKILL from outside to rank 0, rank 1 or both in turn, up to ``seconds`` in, drawn by ``(seed, number)``."""
    rng, out = np.random.default_rng([seed, number]), ranks.folder / f"random-{number}"
    started = ranks.start(out, lambda rank: impatient(10))
    time.sleep(rng.uniform(0, seconds))
    targets = ((0,), (1,), (0, 1))[number % 3]
    for rank in targets:
        os.kill(started[rank][0], signal.SIGKILL)  # a child that has ended is still there until it is waited for
    ends = [finished(rank) for rank in started]
    others = [code for rank, (code, _) in enumerate(ends) if rank not in targets]
    killed = [ends[rank][0] == KILLED for rank in targets]
    return {
        "point": "random", "rank": targets, "number": number, "killed": any(killed), "kills": sum(killed),
        "other": others[0] if others else 1, "differs": ranks.differs(out),
    }  # fmt: skip


def some(ranks: Ranks) -> list[dict[str, Any]]:
    """The kills of the normal tests."""
    return [kill_at(ranks, rank, point, number) for (rank, point), number in SOME.items()]


def many(ranks: Ranks, random: int) -> list[dict[str, Any]]:
    """First and last time of every point that a rank passes, then random times."""
    done = []
    for rank, counts in enumerate(ranks.counts):
        for point, count in counts.items():
            done += [kill_at(ranks, rank, point, number) for number in sorted({1, count}) if count]
    began = time.perf_counter()  # by now, as the first run of ranks takes far longer than the next ones
    ranks.run(ranks.folder / "timed")
    seconds = time.perf_counter() - began
    return done + [kill_at_random(ranks, number, seconds) for number in range(random)]


def hung(ranks: Ranks, size: int, rank: int) -> dict[int, Mapping[str, Any]]:
    """One rank stops in its third step and stays there (SIGSTOP); how the others end."""

    def prepare(this: int) -> None:
        impatient(6)
        if this == rank:
            on_call(trainer.Trainer, "_checked", 3, lambda: os.kill(os.getpid(), signal.SIGSTOP))

    started = ranks.start(ranks.folder / f"hung-{rank}-of-{size}", prepare, size)
    ends = {r: finished(of) for r, of in enumerate(started) if r != rank}
    os.kill(started[rank][0], signal.SIGKILL)
    ended(started[rank][0])
    return {r: {"code": code, "lines": lines} for r, (code, lines) in ends.items()}


def stopped(ranks: Ranks, rank: int) -> dict[str, Any]:
    """SIGTERM from outside to one rank within its third step; then the end of the run."""
    out, reached, sent = (ranks.folder / f"stopped-{rank}{name}" for name in ("", ".reached", ".sent"))

    def wait() -> None:
        reached.touch()
        until(sent.exists)

    def prepare(this: int) -> None:
        if this == rank:
            on_call(trainer.Trainer, "_clamp_scale", 3, wait)

    started = ranks.start(out, prepare)
    until(reached.exists)
    began = time.monotonic()
    os.kill(started[rank][0], signal.SIGTERM)
    time.sleep(0.05)
    sent.touch()
    ends = [finished(of) for of in started]
    seconds, (newest, _) = time.monotonic() - began, newest_checkpoint(out / "checkpoints")
    return {
        "codes": [code for code, _ in ends], "lines": [lines[-1] if lines else "" for _, lines in ends],
        "seconds": seconds, "step": newest.step if newest else None, "differs": ranks.differs(out),
    }  # fmt: skip
