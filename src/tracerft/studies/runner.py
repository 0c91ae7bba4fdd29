"""Runs of a study: what is missing is run, what is half done is resumed, what is finished is read."""

import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from tracerft.api import Run, read_config, run_config
from tracerft.config import FinetuneConfig
from tracerft.errors import ArgumentError, RunFolderError
from tracerft.reports.record import environment, write_json, write_text
from tracerft.reports.study import write_study_report

Progress = Callable[[int, int, str], None]


def finish(config: FinetuneConfig) -> Run:
    """Return the run, from its folder if it is finished, else by running or resuming it.

    Raises:
        RunFolderError: if the folder holds a run of another configuration.
    """
    written = Path(config.out) / "config.yaml"
    resume = written.is_file()
    if resume and replace(read_config(written), out=config.out) != config:
        raise RunFolderError(f"{config.out}: holds a run with other settings; give the study another --out")
    return run_config(config, resume=resume, lean=True)


def _worker(config: FinetuneConfig) -> str:
    torch.set_num_threads(1)  # two small models on two cores beat one on both, and sums do not depend on the machine
    finish(config)
    return config.out


def run_all(configs: Sequence[FinetuneConfig], workers: int, progress: Progress | None = None) -> list[Run]:
    """Finish every run, ``workers`` at a time, in processes of their own.

    Args:
        configs: one a run, each with its own ``out``.
        workers: processes; 1 or more.
        progress: told how many are done, how many there are, and the name of the last one.

    Returns:
        The runs in the order of ``configs``.
    """
    if workers < 1:
        raise ArgumentError(f"`workers` must be at least 1; got {workers}")
    if progress:
        progress(0, len(configs), "")
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(_worker, config) for config in configs]
        try:
            for done, future in enumerate(as_completed(waiting), start=1):
                out = future.result()
                if progress:
                    progress(done, len(configs), Path(out).name)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [finish(config) for config in configs]


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


def write_figures(out: Path, drawn: Sequence[tuple[str, str, str, str]]) -> list[dict[str, str]]:
    """Write (name, title, SVG, caption) to ``out/figures``; returns the entries for study.json."""
    entries = []
    for name, title, svg, caption in drawn:
        write_text(out / "figures" / f"{name}.svg", svg)
        alt = f"{title}: the numbers are in the tables of this page"
        entries.append({"file": f"figures/{name}.svg", "title": title, "caption": caption, "alt": alt})
    return entries


def claim(name: str, paper: str, ours: str, holds: bool | None, note: str = "") -> dict[str, Any]:
    """A line of ``claims`` in study.json; ``holds`` comes from numbers, ``None`` says not tested, or not settled."""
    return {"id": name, "paper": paper, "ours": ours, "holds": None if holds is None else bool(holds), "note": note}
