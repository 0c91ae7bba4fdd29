"""Finished runs side by side: their names, what they can be compared on, and where they differ. Reads files only."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from tracerft.errors import ArgumentError
from tracerft.reports.log import read_log
from tracerft.reports.record import read_record

PRETRAINED, WISE = "pretrained", "-wise-"


@dataclass(frozen=True)
class Compared:
    """One finished run: what it is called here, its folder, its record.json and its metrics.jsonl."""

    name: str
    folder: Path
    record: Mapping[str, Any]
    log: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Row:
    """One model of a run. Accuracies and errors are fractions in [0, 1], ``None`` where there is none.

    Args:
        run: name of the run; empty for the pretrained model that all runs share.
        model: its name in the record, such as ``student``.
        splits: ``{split: accuracy}``, by the measure that the split is judged by.
        shifts: mean over the shifts that all runs have.
        ece_id: expected calibration error in 10 bins on ``id``.
        ece_shifts: its mean over the same shifts.
    """

    run: str
    model: str
    splits: Mapping[str, float | None]
    shifts: float | None
    ece_id: float | None
    ece_shifts: float | None

    @property
    def label(self) -> str:
        """Run and model as one name."""
        return f"{self.run}: {self.model}" if self.run else self.model


def read_runs(folders: Sequence[Path]) -> list[Compared]:
    """Read finished runs; each is called by the last parts of its path, as many as tell all apart.

    Raises:
        ArgumentError: if there is none, or one is named twice.
        DataError: if one is not finished or a file is damaged.
    """
    if not folders:
        raise ArgumentError("`folders` must name at least one finished run; got none")
    parts = [Path(folder).resolve().parts for folder in folders]
    twice = [str(f) for f, of in zip(folders, parts, strict=True) if parts.count(of) > 1]
    if twice:
        raise ArgumentError(f"`folders` must be different runs; got {twice[0]} twice; name each once")
    depth = next(k for k in range(1, max(map(len, parts)) + 1) if len({of[-k:] for of in parts}) == len(parts))
    names = ["/".join(of[-depth:]) for of in parts]
    return [
        Compared(name, Path(folder), read_record(Path(folder)), read_log(Path(folder) / "metrics.jsonl"))
        for name, folder in zip(names, folders, strict=True)
    ]


def legend_names(runs: Sequence[Compared]) -> dict[str, str]:
    """Names short enough for a legend that has a model's name behind them; the middle is left out, or they are numbers.

    Figures group points by these names, so no two runs may share one.
    """
    names = [run.name if len(run.name) <= 21 else f"{run.name[:10]}…{run.name[-10:]}" for run in runs]
    if len(set(names)) < len(names):
        names = [f"run {place}" for place in range(1, len(runs) + 1)]
    return {run.name: name for run, name in zip(runs, names, strict=True)}


def splits_of(runs: Sequence[Compared]) -> list[str]:
    """Every reported split in order of appearance, ``id`` first; what settings are chosen on is none."""
    names = dict.fromkeys(s for run in runs for of_model in run.record["results"].values() for s in of_model)
    return sorted((s for s in names if not s.startswith("select-")), key=lambda name: name != "id")


def common_shifts(runs: Sequence[Compared]) -> list[str]:
    """Shifts on which every model of every run has an accuracy; interpolated models are not asked."""
    models = [of for run in runs for name, of in run.record["results"].items() if WISE not in name]
    return [s for s in splits_of(runs) if s != "id" and all(accuracy(m.get(s)) is not None for m in models)]


def accuracy(scores: Mapping[str, Any] | None) -> float | None:
    """What a split is judged by: top-1 unless its record says another measure, recall at 1 where it is retrieved."""
    scores = scores or {}
    value = scores.get(scores.get("metric", "top1"), scores.get("image_to_text_r1"))
    return float(value) if isinstance(value, (int, float)) else None


def shared_start(runs: Sequence[Compared]) -> bool:
    """Whether all runs have a pretrained model with the same results, so that one line can stand for all."""
    starts = [run.record["results"].get(PRETRAINED) for run in runs]
    return starts[0] is not None and all(start == starts[0] for start in starts)


def rows_of(runs: Sequence[Compared]) -> list[Row]:
    """All models of all runs; the pretrained one first and once if it is the same in all."""
    splits, shifts, once = splits_of(runs), common_shifts(runs), shared_start(runs)
    rows = [_row("", PRETRAINED, runs[0].record["results"][PRETRAINED], splits, shifts)] if once else []
    for run in runs:
        for model, scores in run.record["results"].items():
            if not (once and model == PRETRAINED):
                rows.append(_row(run.name, model, scores, splits, shifts))
    return rows


def _row(run: str, model: str, scores: Mapping[str, Any], splits: Sequence[str], shifts: Sequence[str]) -> Row:
    found = {split: accuracy(scores.get(split)) for split in splits}
    errors = {split: scores.get(split, {}).get("ece_10") for split in ("id", *shifts)}
    means = [_mean(of[s] for s in shifts) for of in (found, errors)]
    return Row(run, model, found, means[0], errors["id"], means[1])


def _mean(values: Iterable[float | None]) -> float | None:
    """Mean, or ``None`` where there is nothing or something is missing."""
    found = list(values)
    known = [value for value in found if value is not None]
    return fmean(known) if known and len(known) == len(found) else None


def warnings_of(runs: Sequence[Compared]) -> list[str]:
    """Why numbers of these runs may not be comparable, one sentence each; none where all is alike."""
    found = []
    for split in splits_of(runs):
        evaluated = [run for run in runs if any(split in of_model for of_model in run.record["results"].values())]
        groups: dict[object, list[str]] = {}
        for run in evaluated:
            digest = ((run.record.get("data") or {}).get(split) or {}).get("sha256")
            groups.setdefault(digest, []).append(run.name)
        unknown = groups.pop(None, [])
        if len(groups) > 1:
            told = " | ".join(", ".join(names) for names in groups.values())
            found.append(f"Not the same images on {split}: {told}.")
        if unknown and len(runs) > 1:
            found.append(f"Not known to be the same images on {split}: {', '.join(unknown)} kept no sha256.")
        if len(evaluated) < len(runs):
            found.append(f"Not evaluated on {split}: {', '.join(r.name for r in runs if r not in evaluated)}.")
    classes = {tuple(map(str, run.record.get("classes") or ())) for run in runs}
    if len(classes) > 1:
        found.append("The runs have other classes or another order of them.")
    return found


def differences(runs: Sequence[Compared]) -> dict[str, list[object]]:
    """Settings that are not the same in all runs, as ``section.key``, with the value of each run."""
    flats = [_flat(run.record.get("config") or {}) for run in runs]
    keys = dict.fromkeys(key for flat in flats for key in flat if key != "out")
    values = {key: [flat.get(key) for flat in flats] for key in keys}
    return {key: found for key, found in values.items() if any(value != found[0] for value in found)}


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        found |= _flat(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return found
