"""The page of a soak and its figure, from ``soak.json`` alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.faults.lives import GROWTH
from tracerft.reports.figures import curves
from tracerft.reports.record import write_text


def write_page(out: Path, report: Mapping[str, Any]) -> None:
    """``README.md`` and ``memory.svg`` beside the report."""
    samples = report["unbroken"]["samples"]
    line = {"label": "unbroken run", "x": [s / 60 for s in samples["seconds"]], "y": samples["mib"]}
    write_text(out / "memory.svg", curves([line], x_label="minutes", y_label="resident memory, MiB"))
    write_text(out / "README.md", "\n".join([*_head(report), *_table(report), *_end(report)]) + "\n")


def _head(report: Mapping[str, Any]) -> list[str]:
    return [
        "# A long training, killed again and again",
        "",
        f"`make soak` trained the packaged model for {report['steps']:,} steps twice, at the same time: once unbroken, "
        f"once killed (SIGKILL) {report['kills']} times and resumed. {report['kills in training']} kills fell into "
        "training or the evaluation after it, drawn evenly from 0 to "
        f"{report['latest kill, seconds of training']:g} s after a process's first step; the others came while one "
        f"was starting (seed {report['seed']}). A checkpoint was made every "
        f"{report['options']['checkpoint_every']} steps.",
        "",
    ]


def _table(report: Mapping[str, Any]) -> list[str]:
    whole, cut = report["unbroken"], report["killed"]
    long = [life for life in cut if life["quarters"]]
    rows = [
        ("files compared, and the results of the record", f"{report['files compared'] - 1} + 1"),
        ("what differs", ", ".join(report["differing"]) or "nothing"),
        ("duration of the unbroken run", f"{whole['seconds'] / 60:.1f} min"),
        ("duration of the killed one", f"{sum(life['seconds'] for life in cut) / 60:.1f} min"),
        ("unbroken: resident memory, second quarter of the training to last", _change(whole["quarters"], "mib")),
        ("unbroken: open handles, the same", _change(whole["quarters"], "handles")),
        ("killed: processes that trained for long enough to tell", f"{len(long)} of {len(cut)}"),
        ("killed: largest growth of memory within one", _largest(long, "mib")),
        ("killed: largest growth of handles within one", _largest(long, "handles")),
        ("what did not hold", "; ".join(report["failures"]) or "nothing"),
    ]
    return ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows), ""]


def _end(report: Mapping[str, Any]) -> list[str]:
    told = []
    if quarters := report["unbroken"]["quarters"]:
        seen = GROWTH * quarters["mib"][0] * 2**20 / (report["steps"] / 2)  # the quarters' middles are half a run apart
        told = [f" In the unbroken run that is {seen:,.0f} bytes a step; a smaller leak is not seen."]
    return [
        "![resident memory of the unbroken run](memory.svg)",
        "",
        "Memory is RssAnon, the median over a quarter; handles are the entries of /proc/PID/fd, the fewest in "
        f"a quarter. A process passes whose memory grows by no more than {100 * GROWTH:g} % and whose handles do not "
        "grow." + "".join(told),
    ]


def _change(quarters: Mapping[str, Sequence[float]] | None, key: str) -> str:
    if not quarters:
        return "too short to tell"
    before, after = quarters[key]
    if key == "handles":
        return f"{before:g} to {after:g}"
    return f"{before:.1f} to {after:.1f} MiB ({100 * (after / before - 1):+.2f} %)"


def _largest(lives: Sequence[Mapping[str, Any]], key: str) -> str:
    """The change of the life in which it is largest, by the ratio."""
    if not lives:
        return "too short to tell"
    worst = max(lives, key=lambda life: life["quarters"][key][1] / life["quarters"][key][0])
    return _change(worst["quarters"], key)
