"""Kills at every kind of point and at random times, and what resuming makes of them."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.forks import KILLED, Workshop, ended, start

SOME = {  # point: which time of it; the rest of the points, and more times of these, in the long test
    "config, before its rename": 1,
    "forward": 5,
    "optimiser step": 6,
    "teacher update": 3,
    "log line, half": 4,
    "checkpoint part, half": 13,
    "manifest": 1,
    "checkpoint, before its rename": 3,
    "old checkpoint half removed": 4,
    "predictions, before their rename": 2,
    "examples, half": 2,
    "model, half": 2,
    "record, before its rename": 1,
}


def kill_at(shop: Workshop, point: str, number: int) -> dict[str, Any]:
    """One run that dies at a point, and what differs after it was resumed."""
    out = shop.folder / f"{point}-{number}".replace(" ", "-")
    code = shop.dying(out, point, number)
    return {"point": point, "number": number, "killed": code == KILLED, "differs": shop.finished(out)}


def times(count: int) -> list[int]:
    """First, middle, last of so many."""
    return sorted({1, (count + 1) // 2, count})


def kill_at_random(shop: Workshop, number: int, seed: int = 0) -> dict[str, Any]:
    """One run that is killed from outside up to twice, at times drawn by ``(seed, number)``."""
    rng, out, kills = np.random.default_rng([seed, number]), shop.folder / f"random-{number}", 0
    for _ in range(2):
        pid = start(lambda: shop.go_on(out))
        time.sleep(rng.uniform(0, shop.seconds))
        os.kill(pid, signal.SIGKILL)  # a child that has ended is still there until it is waited for
        kills += ended(pid) == KILLED
    return {"point": "random", "number": number, "killed": kills > 0, "kills": kills, "differs": shop.finished(out)}


def some(shop: Workshop) -> list[dict[str, Any]]:
    """One kill at each of these points."""
    return [kill_at(shop, point, number) for point, number in SOME.items()]


def many(shops: dict[str, Workshop], random: int) -> list[dict[str, Any]]:
    """First, middle and last time of every point that a method passes, then random times."""
    done = []
    for method, shop in shops.items():
        for point, count in shop.counts.items():
            done += [{"method": method} | kill_at(shop, point, number) for number in times(count) if count]
    method, shop = next(iter(shops.items()))
    return done + [{"method": method} | kill_at_random(shop, number) for number in range(random)]


def workshops(folder: Path, model: Path, data: Path, methods: tuple[str, ...]) -> dict[str, Workshop]:
    """One a method."""
    return {method: Workshop(folder / method, model, data, method=method) for method in methods}
