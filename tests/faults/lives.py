"""Processes watched from outside while they live: resident memory, open handles, and whether either grows."""

import math
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

GROWTH = 0.02  # of resident memory, second quarter of the training to last, that passes for steady
FEWEST = 16  # samples of the training, four a quarter; with fewer one odd sample would decide


@dataclass(frozen=True)
class Sample:
    """A process at one time.

    Args:
        seconds: since the process was started.
        mib: resident memory of its own, without mapped files.
        handles: open files, pipes and sockets.
        log: bytes of the log it writes, which tell when it trains.
    """

    seconds: float
    mib: float
    handles: int
    log: int


@dataclass(frozen=True)
class Kill:
    """SIGKILL so many seconds ``after`` a process was started or, ``in_training``, after its log was seen to grow."""

    after: float
    in_training: bool = True


@dataclass
class Life:
    """What was seen of one process; ``code`` is its exit code, negative for a signal."""

    samples: list[Sample] = field(default_factory=list)
    seconds: float = 0.0
    code: int = 0

    def training(self) -> list[Sample]:
        """Samples from the first growth of the log to the last: neither start-up nor evaluation."""
        sizes = [s.log for s in self.samples]
        grew = [i for i in range(1, len(sizes)) if sizes[i] > sizes[i - 1]]
        return self.samples[grew[0] : grew[-1] + 1] if grew else []

    def quarters(self) -> dict[str, list[float]] | None:
        """Memory and handles in the second and the last quarter of the training; ``None`` if it was too short to tell.

        Of memory the median; of handles the fewest, since a look may fall into the writing of a file.
        """
        found = self.training()
        if len(found) < FEWEST:
            return None
        n = len(found)
        parts = found[n // 4 : n // 2], found[n - n // 4 :]
        return {
            "mib": [median(s.mib for s in part) for part in parts],
            "handles": [min(s.handles for s in part) for part in parts],
        }


def grown(quarters: dict[str, list[float]]) -> list[str]:
    """Which of memory and handles did not stay as they were: empty for a steady process."""
    (memory, memory_after), (handles, handles_after) = quarters["mib"], quarters["handles"]
    found = []
    if memory_after > memory * (1 + GROWTH):
        found.append(f"resident memory from {memory:.1f} to {memory_after:.1f} MiB")
    if handles_after > handles:
        found.append(f"open handles from {handles:g} to {handles_after:g}")
    return found


def lived(command: Sequence[str], log: Path, *, core: int, every: float, kill: Kill | None = None, says: Path) -> Life:
    """Start a process on one core, look at it every so many seconds, and kill it if that is asked for.

    Args:
        command: of the process, which gets one thread.
        log: the file it appends to while it trains.
        core: number of the processor core.
        every: seconds between two looks.
        kill: when; by default it may end by itself.
        says: file that its standard error is appended to.
    """
    life, began = Life(), time.monotonic()
    with says.open("ab") as err:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=err)
    os.sched_setaffinity(process.pid, {core})
    due = began + kill.after if kill and not kill.in_training else math.inf
    while (now := time.monotonic()) < due:
        try:
            life.code = process.wait(timeout=min(every, due - now))
            break
        except subprocess.TimeoutExpired:
            life.samples += _look(process.pid, log, time.monotonic() - began)
        if kill and due == math.inf and life.training():
            due = time.monotonic() + kill.after
    else:
        process.kill()
        life.code = process.wait()
    life.seconds = time.monotonic() - began
    return life


def _look(pid: int, log: Path, seconds: float) -> list[Sample]:
    """One sample; none of a process that is just ending."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        handles = len(os.listdir(f"/proc/{pid}/fd"))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []
    # Not VmRSS: pages of mapped files come and go with what else the machine runs.
    resident = [int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:")]
    size = log.stat().st_size if log.exists() else 0
    return [Sample(seconds, kib / 1024, handles, size) for kib in resident]
