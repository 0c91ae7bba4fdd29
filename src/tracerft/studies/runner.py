"""Runs of a study: what is missing is run, what is half done is resumed, what is finished is read."""

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch

from tracerft.api import ReadParts, Run, run_config, wise_path
from tracerft.config import FinetuneConfig, read_config
from tracerft.errors import ArgumentError, RunFolderError, WorkerError
from tracerft.evaluation.suite import evaluate_models
from tracerft.models.weights import load_model
from tracerft.reports.record import environment, read_json, write_json
from tracerft.reports.study import write_study_report
from tracerft.sources import read_parts

Progress = Callable[[int, int, str], None]
K = TypeVar("K")


def finish(config: FinetuneConfig, read: ReadParts = read_parts) -> Run:
    """Return the run, from its folder if it is finished, else by running or resuming it.

    Raises:
        RunFolderError: if the folder holds a run of another configuration.
    """
    written = Path(config.out) / "config.yaml"
    resume = written.is_file()
    if resume and not _same(read_config(written), config):
        raise RunFolderError(f"{config.out}: holds a run with other settings; give the study another --out")
    return run_config(config, resume=resume, lean=True, read=read)


def _same(written: FinetuneConfig, wanted: FinetuneConfig) -> bool:
    """Whether a run is the wanted one, its folder aside; ``auto`` targets were decided before they were written."""
    loss = written.loss if wanted.loss.targets != "auto" else replace(written.loss, targets="auto")
    return replace(written, out=wanted.out, loss=loss) == wanted


def _worker(config: FinetuneConfig, read: ReadParts) -> str:
    torch.set_num_threads(1)  # two small models on two cores beat one on both, and sums do not depend on the machine
    finish(config, read)
    return config.out


def at_least_one(argument: str, number: int) -> None:
    """Raise `ArgumentError` for a count that leaves nothing to do."""
    if number < 1:
        raise ArgumentError(f"`{argument}` must be at least 1; got {number}")


def run_all(
    configs: Sequence[FinetuneConfig], workers: int, progress: Progress | None = None, read: ReadParts = read_parts
) -> list[Run]:
    """Finish every run, ``workers`` at a time, in processes of their own.

    Args:
        configs: one a run, each with its own ``out``.
        workers: processes; 1 or more.
        read: a module's function that reads data and suite of a configuration.
        progress: told how many are done, how many there are, and the name of the last one.

    Returns:
        The runs in the order of ``configs``.

    Raises:
        WorkerError: if a process was killed from outside.
    """
    at_least_one("workers", workers)
    if progress:
        progress(0, len(configs), "")
    done = 0
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            waiting = [pool.submit(_worker, config, read) for config in configs]
            for future in as_completed(waiting):
                out = future.result()
                done += 1
                if progress:
                    progress(done, len(configs), Path(out).name)
        except BrokenProcessPool as error:
            raise WorkerError(
                f"{Path(configs[0].out).parent}: a process was killed from outside, often for want of memory, after "
                f"{done} of {len(configs)} runs; finished runs are kept and the same command goes on from them; take "
                "fewer --workers if it happens again"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [finish(config, read) for config in configs]


def finished_runs(configs: Mapping[K, FinetuneConfig]) -> dict[K, Run]:
    """Those runs that are finished in their folders; none is started."""
    done = {key: c for key, c in configs.items() if (Path(c.out) / "record.json").is_file()}
    return {key: finish(config) for key, config in done.items()}


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a JSON file holds, made and written first if it is not there."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, make())
    return read_json(path, f"remove {path} and run the study again")


def path_results(run: Run, points: int, read: ReadParts) -> dict[str, dict[str, Any]]:
    """`evaluate_path`, kept in the run's folder."""
    return kept(run.folder / f"path-{points}.json", lambda: evaluate_path(run, points, read))


def evaluate_path(run: Run, points: int, read: ReadParts) -> dict[str, dict[str, Any]]:
    """Metrics of WiSE-FT between a run's start and its student, ends left out: ``student-wise-<alpha>`` by split."""
    config = read_config(run.folder / "config.yaml")
    start = load_model(config.model, seed=config.train.seed)
    path = wise_path("student", start.model, load_model(run.folder / "student").model, points)
    return evaluate_models(path, read(config, start).suite.splits(), start.tokenize)


def commit() -> str | None:
    """The commit of the source tree this package runs from, ``None`` outside one; ``+`` marks changes to src."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        run = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True)
        return run.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", str(here.parent)) else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def write_study(out: Path, study: dict[str, Any], command: str, started: float) -> Path:
    """Add how the study was made, write ``study.json`` and the report; returns the report's path."""
    made = {"command": command, "commit": commit(), "environment": environment()}
    write_json(out / "study.json", study | made | {"seconds": time.perf_counter() - started})
    return write_study_report(out)
