"""Whole runs for the tests: six steps on the small folder, cut where a test says, compared byte by byte."""

import json
from pathlib import Path
from typing import Any

import tracerft
from tracerft.api import Run

STEPS = 6
TRAIN = {
    "steps": STEPS,
    "batch_size": 16,
    "lr": 1e-2,
    "warmup_steps": 2,
    "log_every": 1,
    "checkpoint_every": 1,
    "probe_every": 3,
    "device": "cpu",
}


class Cut(Exception):
    """Stands for whatever ended the process."""


def cut_at(step: int):
    """A progress callback that ends the run after ``step``."""

    def progress(done, total, terms):
        if done == step:
            raise Cut

    return progress


def finetune(model: Path, data: Path, out: Path, *, train: dict[str, Any] | None = None, **options: Any) -> Run:
    """`tracerft.finetune` with `TRAIN` as the defaults."""
    return tracerft.finetune(model, data=data, out=out, train=TRAIN | (train or {}), **options)


def contents(folder: Path) -> dict[str, Any]:
    """Every file of a run but those that hold its path or its duration; of the record only the results."""
    files = {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}
    for name in ("config.yaml", "report.html"):
        files.pop(name)
    record = json.loads(files.pop("record.json").read_text())
    return {"results": record["results"]} | {name: path.read_bytes() for name, path in files.items()}
