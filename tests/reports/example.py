"""A made-up study and a made-up run, with names that try to break the page. No number here is a result."""

import json
from pathlib import Path
from typing import Any

from tracerft.reports import figures

HOSTILE = (
    "<script>document.documentElement.dataset.broken='1'</script>",
    '"><img src=x onerror="document.documentElement.dataset.broken=\'2\'">',
    "' onmouseover='alert(1)",
    "\u202eمرحبا abc\u202c",
    '🦊 fox & "hen" </td></table> $x$ &lt;',
)


def cell(*values: float) -> dict[str, Any]:
    """A study cell without its deviation, which the report then computes."""
    return {"mean": sum(values) / len(values), "values": list(values)}


def rows() -> list[dict[str, Any]]:
    """Two strengths a method; the second is selected. One cell is missing."""
    found: list[dict[str, Any]] = []
    for index, name in enumerate(HOSTILE):
        for strength in (0.1, 1.0):
            low = 90.0 - 7 * index + strength
            row = {"method": name, "strength": strength, "selected": strength == 1.0, "n": 3}
            found.append({**row, "old": cell(low, low + 1, low + 3), "new": 95.0 + strength, "loss": None})
    found[-1]["loss"] = 12.25
    return found


def study() -> dict[str, Any]:
    """All fields of study.json."""
    return {
        "study": "toy",
        "title": f"Title {HOSTILE[0]}",
        "headline": ["Five methods were compared on digits.", f"The best was {HOSTILE[1]}."],
        "settings": {"seeds": [0, 1, 2], "name": HOSTILE[4]},
        "columns": [
            {"key": "old", "label": "Original", "unit": "%", "better": "higher"},
            {"key": "new", "label": f"New {HOSTILE[0]}", "unit": "%", "better": "higher"},
            {"key": "loss", "label": "Forgetting", "unit": "points", "better": "lower"},
        ],
        "rows": rows(),
        "claims": [
            {"id": "A", "paper": "1", "ours": "2", "holds": True, "note": "n"},
            {"id": f"B {HOSTILE[2]}", "paper": HOSTILE[0], "ours": "2", "holds": False, "note": None},
            {"id": "C", "paper": "1", "ours": None, "holds": None, "note": None},
        ],
        "figures": [
            {"file": "front.svg", "title": HOSTILE[0], "caption": HOSTILE[1], "alt": HOSTILE[2]},
            {"file": "bars.svg", "title": "Bars", "caption": "c", "alt": "a"},
        ],
        "command": f"tracerft study toy --out '{HOSTILE[0]}'",
        "commit": None,
        "environment": {"python": "3.11"},
        "seconds": 200.0,
    }


def write_study(folder: Path) -> Path:
    """The folder of a finished study."""
    (folder / "figures").mkdir(parents=True)
    (folder / "study.json").write_text(json.dumps(study()), encoding="utf-8")
    (folder / "figures" / "front.svg").write_text(figures.front(rows(), "new", "old"), encoding="utf-8")
    (folder / "figures" / "bars.svg").write_text(figures.bars(rows(), "old"), encoding="utf-8")
    return folder


def scores(top1: float, n: int = 500) -> dict[str, Any]:
    """The fields of one split in a record."""
    return {
        "n": n, "top1": top1, "top1_ci95": [top1 - 0.02, top1 + 0.02], "top5": None, "mean_per_class": top1,
        "ece_10": 0.031, "ece_15": 0.032, "ece_per_batch_10": 0.04, "nll": 0.5, "brier": 0.2,
    }  # fmt: skip


def record() -> dict[str, Any]:
    """All fields of record.json; the shift has a hostile name."""
    shift = HOSTILE[0]
    return {
        "tracerft": "0.1.0", "status": "finished", "method": "tracer", "seed": 0, "steps": 312, "seconds": 61.0,
        "config": {"train": {"lr": 1e-5, "name": HOSTILE[4]}}, "environment": {"python": "3.11"},
        "data": {"train": {"n": 1000, "sha256": "ab" * 32}},
        "results": {
            "pretrained": {shift: scores(0.70), "id": scores(0.80)},
            "student": {shift: scores(0.68), "id": scores(0.905)},
            "student-wise-0.50": {"id": scores(0.89)},
        },
    }  # fmt: skip


def write_run(folder: Path) -> Path:
    """The folder of a finished run."""
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(record()), encoding="utf-8")
    lines = [{"step": s, "loss": 2.0 / s, "parts": {"fd": 1.0 / s}, "lr": 1e-5} for s in range(1, 30)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder
