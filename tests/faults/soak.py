"""Training for an hour with kills beside the same training without: ``python -m tests.faults.soak --minutes 60``.

The same bytes must come out, and neither memory nor handles of any of the processes may grow. Linux alone.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.lives import Kill, Life, grown, lived
from tests.faults.soak_page import write_page
from tests.runs import contents
from tracerft.reports.record import environment, write_json

SEED = 0
OPTIONS = {"batch_size": 16, "lr": 1e-4, "log_every": 1, "probe_every": 1000, "device": "cpu"}
CALIBRATION = 400  # steps
CHECKPOINT = 5  # seconds between two, about
EARLY = 1 / 8  # of the kills come before the first step, when a process starts, imports, reads
KILLED = -9
Quarters = dict[str, list[float]]


@dataclass(frozen=True)
class Work:
    """What both runs do; the cut one is killed ``mean`` seconds into its training on average, or never for 0."""

    steps: int
    checkpoint_every: int
    mean: float = 0.0
    starting: float = 0.0  # seconds that pass before the first step

    def command(self, out: Path) -> list[str]:
        """The command that begins a run, or goes on with it."""
        run = [sys.executable, "-m", "tracerft", "finetune"]
        if (out / "config.yaml").is_file():
            return [*run, "--resume", str(out)]
        options = OPTIONS | {"steps": self.steps, "checkpoint_every": self.checkpoint_every}
        train = [f"--train.{key}={value}" for key, value in options.items()]
        return [*run, "--model=tiny", "--data=digits", "--digits.count=400", f"--out={out}", *train]

    def kill(self, rng: np.random.Generator) -> Kill:
        """When the next process dies."""
        if rng.random() < EARLY:
            return Kill(rng.uniform(0, self.starting), in_training=False)
        return Kill(rng.uniform(0, 2 * self.mean))


def chain(work: Work, out: Path, core: int, every: float, *, killed: bool) -> list[Life]:
    """One run in as many processes as it takes, each but the last killed."""
    rng, lives, says = np.random.default_rng(SEED), [], out.with_suffix(".err")
    while not lives or lives[-1].code == KILLED:
        kill = work.kill(rng) if killed else None
        log = out / "metrics.jsonl"
        lives.append(lived(work.command(out), log, core=core, every=every, kill=kill, says=says))
    if lives[-1].code:
        raise SystemExit(f"a process of {out} ended with {lives[-1].code}; {says} says why")
    return lives


def beside(work: Work, folder: Path, every: float) -> tuple[list[Life], list[Life]]:
    """Run ``whole`` and ``cut`` at the same time, each on a core of its own where there are two."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    cores = sorted(os.sched_getaffinity(0))
    with ThreadPoolExecutor(2) as pool:
        whole = pool.submit(chain, work, folder / "whole", cores[0], every, killed=False)
        cut = pool.submit(chain, work, folder / "cut", cores[-1], every, killed=work.mean > 0)
        return whole.result(), cut.result()


def calibrated(folder: Path, minutes: float) -> Work:
    """So many steps as the slower of two short runs side by side would take in so many minutes."""
    first, second = beside(Work(CALIBRATION, 100), folder, 0.1)
    slower = max(first[0].training(), second[0].training(), key=lambda of: of[-1].seconds - of[0].seconds)
    step = (slower[-1].seconds - slower[0].seconds) / CALIBRATION
    every = max(1, round(CHECKPOINT / step))
    # An hour has about a hundred kills; in a short soak a process must still get past its next checkpoint.
    mean = max(0.6 * minutes, 2 * CHECKPOINT)
    return Work(max(4 * every, round(60 * minutes / step)), every, mean, slower[0].seconds)


def differing(first: Path, second: Path) -> list[str]:
    """Names of what differs between two finished runs: each file, and the results of their records."""
    one, other = contents(first), contents(second)
    return sorted(name for name in one | other if one.get(name) != other.get(name))


def soak(minutes: float, folder: Path, every: float = 1.0) -> dict[str, Any]:
    """Train for so many minutes, twice, and tell what came of it; see ``failures`` in what is returned.

    Args:
        minutes: of the unbroken run's training, by a short calibration; the other one takes longer.
        folder: for both runs, which stay there.
        every: seconds between two looks at a process.
    """
    work = calibrated(folder / "calibration", minutes)
    began = time.monotonic()
    (whole,), cut = beside(work, folder / "runs", every)
    first, second = folder / "runs" / "whole", folder / "runs" / "cut"
    report = {
        "minutes": round((time.monotonic() - began) / 60, 1),
        "steps": work.steps,
        "options": OPTIONS | {"checkpoint_every": work.checkpoint_every},
        "kills": len(cut) - 1,
        "kills in training": sum(1 for life in cut[:-1] if life.training()),
        "latest kill, seconds of training": round(2 * work.mean, 1),
        "seed": SEED,
        "differing": differing(first, second),
        "files compared": len(contents(first)),
        "unbroken": told(whole) | {"samples": thinned(whole)},
        "killed": [told(life) for life in cut],
        "environment": environment(),
    }
    return report | {"failures": failures(report)}


def told(life: Life) -> dict[str, Any]:
    """One process in numbers."""
    return {
        "seconds": round(life.seconds, 1),
        "killed": life.code == KILLED,
        "most mib": round(max((s.mib for s in life.samples), default=0.0), 1),
        "most handles": max((s.handles for s in life.samples), default=0),
        "quarters": life.quarters(),
    }


def thinned(life: Life, points: int = 240) -> dict[str, list[float]]:
    """Evenly spaced samples for a figure."""
    some = life.samples[:: max(1, len(life.samples) // points)]
    return {
        "seconds": [round(s.seconds, 1) for s in some], "mib": [round(s.mib, 1) for s in some],
        "handles": [s.handles for s in some],
    }  # fmt: skip


def failures(report: dict[str, Any]) -> list[str]:
    """A line for everything that did not hold: bytes, kills, and what grew within a process or from one to the next."""
    lines = [f"{name} differs" for name in report["differing"]]
    if not report["kills in training"]:
        lines.append("nothing was killed in training; ask for more minutes")
    long = [(i, life["quarters"]) for i, life in enumerate(report["killed"]) if life["quarters"]]
    if not (whole := report["unbroken"]["quarters"]):
        lines.append("the unbroken run was too short to tell; ask for more minutes")
    else:
        lines += [f"the unbroken run: {line}" for line in grown(whole)]
    lines += [f"process {i} of the killed run: {line}" for i, quarters in long for line in grown(quarters)]
    if len(long) >= 4:
        lines += [f"from process to process: {line}" for line in grown(successive([q for _, q in long]))]
    return lines


def successive(lives: Sequence[Quarters]) -> Quarters:
    """What processes held in their last quarters, the median over the second and over the last quarter of them."""
    n = len(lives)
    parts = lives[n // 4 : n // 2], lives[n - n // 4 :]
    return {key: [float(np.median([q[key][1] for q in part])) for part in parts] for key in ("mib", "handles")}


def main() -> None:
    """Run the soak, write its files, and say what did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="of training without kills (default: 60)")
    parser.add_argument(
        "--out", type=Path, default=Path("docs/results/soak"), help="for soak.json, README.md, a figure"
    )
    arguments = parser.parse_args()
    report = soak(arguments.minutes, Path("build/soak"))
    write_json(arguments.out / "soak.json", report)
    write_page(arguments.out, report)
    for line in report["failures"]:
        print(f"soak: {line}", file=sys.stderr)
    print((arguments.out / "README.md").read_text())
    sys.exit(1 if report["failures"] else 0)


if __name__ == "__main__":
    main()
