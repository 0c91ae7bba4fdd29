"""The process that forks the runs: ``python -m tests.faults.survive FOLDER MODEL DATA OUT some|many``."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from tests.faults import disk, killing
from tests.faults.forks import Workshop
from tracerft.reports.record import environment

METHODS = ("tracer", "wise_ft")
RANDOM = 80


def some(folder: Path, model: Path, data: Path) -> dict[str, Any]:
    """What the normal tests ask."""
    shop = Workshop(folder / "all", model, data)
    late = Workshop(folder / "late", model, data, train={"checkpoint_every": 4})
    signals = (("SIGTERM",), ("SIGTERM", "SIGTERM"), ("SIGINT",), ("SIGINT", "SIGINT"))
    return {
        "kills": killing.some(shop),
        "disk": {name: disk.disk_full(shop, name) for name in disk.offsets(shop)},
        "read-only": disk.read_only(shop),
        "two writers": disk.two_writers(shop),
        "signals": {" ".join(sent): disk.stopped(late, *sent) for sent in signals},
    }


def many(folder: Path, model: Path, data: Path) -> dict[str, Any]:
    """What `make faults` asks, as its report tells it."""
    began = time.perf_counter()
    done = killing.many(killing.workshops(folder, model, data, METHODS), RANDOM)
    points: dict[str, int] = {}
    for kill in done:
        points[kill["point"]] = points.get(kill["point"], 0) + kill.get("kills", int(kill["killed"]))
    return {
        "kills": sum(points.values()),
        "runs": len(done),
        "differing": [kill for kill in done if kill["differs"]],
        "by point": points,
        "methods": METHODS,
        "seconds": round(time.perf_counter() - began),
        "environment": environment(),
    }


if __name__ == "__main__":
    folder, model, data, out = map(Path, sys.argv[1:5])
    out.write_text(json.dumps({"some": some, "many": many}[sys.argv[5]](folder, model, data)))
