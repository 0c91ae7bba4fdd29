"""The process that forks the runs: ``python -m tests.faults.survive FOLDER MODEL DATA OUT some|many``."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from tests.faults import disk, killing, rank_faults
from tests.faults.forks import Workshop
from tests.faults.rank_faults import Ranks
from tracerft.reports.record import environment

METHODS = ("tracer", "wise_ft")
RANDOM = 80
RANDOM_RANKS = 30


def some(folder: Path, model: Path, data: Path) -> dict[str, Any]:
    """What the normal tests ask."""
    shop = Workshop(folder / "all", model, data)
    late = Workshop(folder / "late", model, data, train={"checkpoint_every": 4})
    signals = (("SIGTERM",), ("SIGTERM", "SIGTERM"), ("SIGINT",), ("SIGINT", "SIGINT"))
    ranks = Ranks(late)
    return {
        "kills": killing.some(shop),
        "disk": {name: disk.disk_full(shop, name) for name in disk.offsets(shop)},
        "read-only": disk.read_only(shop),
        "two writers": disk.two_writers(shop),
        "signals": {" ".join(sent): disk.stopped(late, *sent) for sent in signals},
        "rank kills": rank_faults.some(ranks),
        "rank signals": [rank_faults.stopped(ranks, rank) for rank in range(2)],
        "hung": {f"{rank} of {size}": rank_faults.hung(ranks, size, rank) for size, rank in ((3, 2), (2, 0))},
    }


def many(folder: Path, model: Path, data: Path) -> dict[str, Any]:
    """What `make faults` asks, as its report tells it."""
    began = time.perf_counter()
    done = killing.many(killing.workshops(folder, model, data, METHODS), RANDOM)
    late = Workshop(folder / "late", model, data, train={"checkpoint_every": 2})
    of_ranks = rank_faults.many(Ranks(late), RANDOM_RANKS)
    alone, ranks = _by_point(done), _by_point(of_ranks)
    return {
        "kills": sum(alone.values()) + sum(ranks.values()),
        "runs": len(done) + len(of_ranks),
        "differing": [kill for kill in done + of_ranks if kill["differs"]],
        "by point": alone,
        "ranks": {
            "kills": sum(ranks.values()),
            "runs": len(of_ranks),
            "not ended by themselves": [kill for kill in of_ranks if kill["other"] not in (0, 1)],
            "by point": ranks,
        },
        "methods": METHODS,
        "seconds": round(time.perf_counter() - began),
        "environment": environment(),
    }


def _by_point(done: list[dict[str, Any]]) -> dict[str, int]:
    """Kills, several of one run counted each."""
    points: dict[str, int] = {}
    for kill in done:
        name = kill["point"]
        if "rank" in kill and name != "random":
            name = f"rank {kill['rank']}: {name}"
        points[name] = points.get(name, 0) + kill.get("kills", int(kill["killed"]))
    return points


if __name__ == "__main__":
    folder, model, data, out = map(Path, sys.argv[1:5])
    out.write_text(json.dumps({"some": some, "many": many}[sys.argv[5]](folder, model, data)))
