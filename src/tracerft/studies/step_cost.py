"""What a training step of a run costs: time without loading data, time of loading, and memory at its peak."""

import sys
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from tracerft.api import ReadParts, make_ready
from tracerft.config import FinetuneConfig
from tracerft.training.plan import Source
from tracerft.training.trainer import Trainer
from tracerft.types import Batch

WARM_UP, STEPS = 5, 25  # steps left out, and steps measured


class _EnoughError(Exception):
    """Ends a run that is only measured."""


class _Timed:
    """A source that knows how long it took to make its batches, in seconds."""

    def __init__(self, source: Source) -> None:
        self._source, self.seconds = source, 0.0

    def __len__(self) -> int:
        return len(self._source)

    def batch(self, sample_ids: NDArray[np.int64], epoch: int) -> Batch:
        """The source's own."""
        started = time.perf_counter()
        made = self._source.batch(sample_ids, epoch)
        self.seconds += time.perf_counter() - started
        return made


def step_cost(config: FinetuneConfig, read: ReadParts) -> dict[str, float]:
    """Train for `WARM_UP` and `STEPS` steps as the trainer does, and keep nothing.

    Args:
        config: of the run; its length sets the intervals of a teacher.
        read: reads data and suite.

    Returns:
        ``step_ms``, mean milliseconds of a measured step without making its batch; ``data_ms``, of making the batch;
        ``memory_mib``, most memory that the process has ever held, and ``added_mib``, how much of it came after
        model and data were loaded.
    """
    ready, marks = make_ready(config, read=read), list[tuple[float, float]]()
    source, loaded = _Timed(ready.parts.source), peak_memory()

    def after(step: int, _total: int, _terms: Mapping[str, float]) -> None:
        marks.append((time.perf_counter(), source.seconds))
        if step == WARM_UP + STEPS:
            raise _EnoughError

    total = max(ready.plan.total_steps, WARM_UP + STEPS + 1)  # the last step also saves, which is no step's cost
    plan = replace(ready.plan, total_steps=total, checkpoint_every=0, probe_every=0)
    with TemporaryDirectory() as folder, suppress(_EnoughError):
        Trainer(ready.loaded.model, ready.method, source, plan, Path(folder), progress=after).run()
    whole, making = (1000.0 * (marks[-1][i] - marks[WARM_UP - 1][i]) / STEPS for i in (0, 1))
    peak = peak_memory()
    return {"step_ms": whole - making, "data_ms": making, "memory_mib": peak, "added_mib": peak - loaded}


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
