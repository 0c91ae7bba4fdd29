"""Sides of a comparison timed in turn, A B A B, so that what else the machine does meets them alike."""

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch


def interleaved(sides: Mapping[str, Callable[[], object]], rounds: int, *, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of each call by side, ``rounds`` each after ``warmup`` untimed ones.

    CPU time of the process, since on a shared machine wall time measures the neighbours; with a GPU, wall time
    between synchronisations.
    """
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(warmup + rounds):
        for name, call in sides.items():
            _wait()
            start = clock()
            call()
            _wait()
            if number >= warmup:
                taken[name].append(clock() - start)
    return taken


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratio(taken: Mapping[str, list[float]], of: str, to: str) -> dict[str, float]:
    """Median and quartiles of the ratio of two sides, round by round."""
    ratios = [a / b for a, b in zip(taken[of], taken[to], strict=True)]
    low, _, high = quantiles(ratios, n=4)
    return {"median": median(ratios), "q25": low, "q75": high, "rounds": len(ratios)}


def report(
    name: str, taken: Mapping[str, list[float]], pairs: list[tuple[str, str]], out: Path | None, **more: Any
) -> dict[str, Any]:
    """Print seconds and ratios, and write them as JSON where ``out`` says."""
    result = {
        "benchmark": name,
        "machine": machine(),
        "seconds": {side: median(times) for side, times in taken.items()},
        "ratios": {f"{a} / {b}": ratio(taken, a, b) for a, b in pairs},
        **more,
    }
    for side, seconds in result["seconds"].items():
        print(f"{side:24s} {1000 * seconds:10.2f} ms")
    for label, r in result["ratios"].items():
        print(f"{label:40s} {r['median']:.3f}  [{r['q25']:.3f}, {r['q75']:.3f}]  n={r['rounds']}")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=2) + "\n")
    return result


def machine() -> dict[str, Any]:
    """What ran, without its name."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    clock = "wall" if torch.cuda.is_available() else "process CPU"
    cores, threads = os.cpu_count(), torch.get_num_threads()
    return {"device": device, "cores": cores, "threads": threads, "torch": torch.__version__, "clock": clock}
