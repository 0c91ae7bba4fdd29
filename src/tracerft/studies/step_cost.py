"""What a training step of a run costs: time without loading data, time of loading, and memory at its peak."""

import sys
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from tracerft.api import ReadParts, make_ready
from tracerft.config import FinetuneConfig
from tracerft.training.plan import Source
from tracerft.training.trainer import Trainer
from tracerft.types import Batch

WARM_UP, STEPS = 5, 50  # steps left out, and steps measured


class _EnoughError(Exception):
    """Ends a run that is only measured."""


class _Held:
    """A source that makes the batches of the warm-up, in `seconds` each, and then gives the last one again and again.

    So no measured step waits for its batch, or shares the processor with what makes it.
    """

    def __init__(self, source: Source) -> None:
        self._source, self.seconds = source, list[float]()

    def __len__(self) -> int:
        return len(self._source)

    def batch(self, sample_ids: NDArray[np.int64], epoch: int) -> Batch:
        """The source's own, or the last of those."""
        if len(self.seconds) < WARM_UP:
            started = time.perf_counter()
            self._last = self._source.batch(sample_ids, epoch)
            self.seconds.append(time.perf_counter() - started)
        return self._last


def step_cost(config: FinetuneConfig, read: ReadParts) -> dict[str, float]:
    """Train for `WARM_UP` and `STEPS` steps as the trainer does, and keep nothing.

    Args:
        config: of the run; its length sets the intervals of a teacher.
        read: reads data and suite.

    Returns:
        ``step_ms``, median milliseconds of a measured step without making its batch, on a CPU those in which the
        processor worked for it; ``data_ms``, median of making a batch; ``memory_mib``, most memory that the process has
        ever held, and ``added_mib``, how much of it came after model and data were loaded.
    """
    ready, marks = make_ready(config, read=read), list[float]()
    source, loaded = _Held(ready.parts.source), peak_memory()
    clock = time.thread_time if ready.plan.device.type == "cpu" else time.perf_counter

    def after(step: int, _total: int, _terms: Mapping[str, float]) -> None:
        marks.append(clock())
        if step == WARM_UP + STEPS:
            raise _EnoughError

    total = max(ready.plan.total_steps, WARM_UP + STEPS + 1)  # the last step also saves, which is no step's cost
    plan = replace(ready.plan, total_steps=total, checkpoint_every=0, probe_every=0)
    with TemporaryDirectory() as folder, suppress(_EnoughError):
        Trainer(ready.loaded.model, ready.method, source, plan, Path(folder), progress=after).run()
    peak = peak_memory()
    return {
        "step_ms": 1000.0 * median(later - earlier for earlier, later in pairwise(marks[WARM_UP - 1 :])),
        "data_ms": 1000.0 * median(source.seconds),
        "memory_mib": peak,
        "added_mib": peak - loaded,
    }


def step_cost_apart(config: FinetuneConfig, read: ReadParts) -> dict[str, float]:
    """`step_cost` in a process of its own on one core, so that no run sees the memory of another."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_alone, config, read).result()


def _alone(config: FinetuneConfig, read: ReadParts) -> dict[str, float]:
    torch.set_num_threads(1)
    return step_cost(config, read)


def peak_memory() -> float:
    """Most resident memory of this process so far, MiB."""
    status = Path("/proc/self/status")
    if status.is_file():  # a process inherits the ru_maxrss of the one that started it, but not this
        line = next((v for v in status.read_text().splitlines() if v.startswith("VmHWM:")), None)
        if line is not None:
            return int(line.split()[1]) / 1024
    import resource  # not on every system

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 1024)
