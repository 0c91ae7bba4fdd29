"""The paper's ImageNet tables (1 to 3 and 5 to 11) for one backbone: our runs beside the published numbers.

Nothing is selected: every method runs at its published strength in the paper's recipe. See `paper_plan` for the runs.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from tracerft.api import Run
from tracerft.data.imagenet import imagenet_class_names, imagenet_synsets
from tracerft.errors import ArgumentError, DataError
from tracerft.reports.record import write_text
from tracerft.studies.merged import Make
from tracerft.studies.paper_claims import MEAN, claims_of
from tracerft.studies.paper_plan import PaperRow, configs_of, recipe, rows_of
from tracerft.studies.published import printed_row
from tracerft.studies.results import spread
from tracerft.studies.runner import Progress, finished_runs, kept, write_study
from tracerft.studies.variants import finish_all, length, seeds_said
from tracerft.studies.worlds import NO_ANCHORS, World


@dataclass(frozen=True)
class Shift:
    """A shifted test set: its name for a reader, its builder, and the folders it is looked for in."""

    label: str
    builder: str
    folders: tuple[str, ...]


SHIFTS = {
    "imagenet_v2": Shift("V2", "imagenet-v2", ("imagenet-v2", "imagenetv2", "imagenetv2-matched-frequency-format-val")),
    "imagenet_r": Shift("R", "imagenet-r", ("imagenet-r",)),
    "imagenet_a": Shift("A", "imagenet-a", ("imagenet-a",)),
    "imagenet_sketch": Shift("Sketch", "imagenet-sketch", ("imagenet-sketch", "sketch")),
    "objectnet": Shift("ObjectNet", "objectnet", ("objectnet", "objectnet-1.0")),
}
_LABELS = {"imagenet": "ImageNet", MEAN: "Mean of shifts", **{key: of.label for key, of in SHIFTS.items()}}
_KEYS = ("imagenet", MEAN, "imagenet_ece", f"{MEAN}_ece", *SHIFTS, *(f"{key}_ece" for key in SHIFTS))
COLUMNS: list[dict[str, Any]] = [
    {"key": f"{source}{key}", "label": f"{'ECE ' * key.endswith('_ece')}{_LABELS[key.removesuffix('_ece')]}{said}"}
    | {"unit": "%", "better": None, "digits": 2}
    for key in _KEYS
    for source, said in (("", ""), ("published_", ", paper (other pipeline)"))
]
Measures = dict[str, float]


def paper_world(
    out: Path,
    imagenet: Path,
    backbone: str,
    *,
    seeds: int,
    model: str | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
) -> World:
    """ImageNet in the recipe of a backbone's preset; reads nothing.

    Args:
        out: the study's folder.
        imagenet: folder with ``train``, ``val`` and shifts.
        backbone: of `paper_plan.BACKBONES`.
        seeds: of the runs.
        model: start, by default OpenAI's.
        steps: of each run, by default ten epochs.
        batch_size: by default the recipe's.
    """
    base = recipe(out, imagenet, backbone, model=model, steps=steps, batch_size=batch_size)
    t = base.train
    told = {"backbone": backbone, "start": base.model, "steps": t.steps, "batch size": t.batch_size, "lr": t.lr}
    return World(
        title=f"The paper's ImageNet tables, {backbone}",
        base=base,
        starts=[base.model] * seeds,
        columns=COLUMNS,
        axes=("imagenet", MEAN),
        measures=measures,
        settings={
            **told,
            "seeds": seeds,
            "strengths": "as published, none selected",
            "ECE": "10 bins, batches of 512 averaged, as the published code does",
            "paper": "numbers of another pipeline; rows of Tables 1 and 2 are partly copied from other papers",
        },
        without={"arf": NO_ANCHORS},
        targets=base.loss.targets,
    )


def run(
    world: World,
    backbone: str,
    tables: Sequence[str],
    *,
    only_finished: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
    command: str = "tracerft study paper",
) -> Path:
    """Run what is missing, and write ``study.json`` (``part`` is the table of a row) and ``report.html``.

    Args:
        world: of `paper_world`; the study is written into its folder.
        backbone: the one of ``world``.
        tables: numbers, see `paper_plan.tables_of`.
        only_finished: run nothing, table what is finished.
        workers: processes.
        progress: told about every finished run.
        command: how the study was called, for the report.

    Returns:
        Path of the report.

    Raises:
        DataError: if ``train`` or ``val`` is not there.
        ArgumentError: if nothing is finished, and nothing should be run.
    """
    started, out, seeds = time.perf_counter(), Path(world.base.out), range(len(world.starts))
    rows = [row for table in tables for row in rows_of(table, backbone, length(world))]
    configs = {c.out: c for row in rows for seed in seeds for c in configs_of(world, row, seed)}
    if only_finished:
        runs = finished_runs(configs)
    else:
        _write_data(out, Path(world.base.data).parent)
        runs = finish_all(world, configs, workers, progress)
    if not runs:
        raise ArgumentError(f"`only_finished`: no run of these tables is finished in {out}")
    made = [_row(row, backbone, _measured(world, row, runs, only_finished)) for row in rows]
    blank = [key for key in SHIFTS if any(key not in one.results["student"] for one in runs.values())]
    claims = [c for table in tables for c in claims_of(table, [row for row in made if row["part"] == table])]
    left_out = {f"not run: {row.label}": world.without[row.method] for row in rows if row.method in world.without}
    study = {
        "study": "paper",
        "title": world.title,
        "headline": _headline(len(runs), len(configs), claims, len(seeds), blank),
        "settings": {**world.settings, **left_out},
        "columns": COLUMNS,
        "rows": made,
        "claims": claims,
        "figures": [],
    }
    return write_study(out, study, command, started)


def measures(results: Mapping[str, Any], _start: Mapping[str, Any]) -> Measures:
    """Accuracy, and calibration error as published, of each set that was evaluated, in percent."""
    found: Measures = {}
    for split, metrics in results.items():
        key = "imagenet" if split == "id" else split
        found |= {key: 100.0 * metrics["top1"], f"{key}_ece": 100.0 * metrics["ece_per_batch_10"]}
    return found


def _write_data(out: Path, imagenet: Path) -> None:
    """Write ``classes.txt`` and ``suite.yaml`` of what there is; shifts that are not there are left out."""
    lacking = [name for name in ("train", "val") if not (imagenet / name).is_dir()]
    if lacking:
        raise DataError(
            f"`imagenet` {imagenet}: no folder {' and no '.join(lacking)} in it; expected train and val, each with one "
            "folder a WordNet id, and beside them the shifts; see docs/paper-tables.md, or plan with --dry_run"
        )
    shifts = {}
    for key, of in SHIFTS.items():
        there = [imagenet / name for name in of.folders if (imagenet / name).is_dir()]
        if there:
            shifts[key] = {"data": str(there[0].resolve()), "builder": of.builder}
    suite = {"id": {"data": str((imagenet / "val").resolve()), "builder": "imagenet"}, "shifts": shifts}
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "suite.yaml", yaml.safe_dump(suite, sort_keys=False))
    pairs = zip(imagenet_synsets(), imagenet_class_names(), strict=True)
    write_text(out / "classes.txt", "".join(f"{synset}\t{name}\n" for synset, name in pairs))


def _measured(world: World, row: PaperRow, runs: Mapping[str, Run], only_finished: bool) -> dict[int, Measures]:
    """Percentages of a row by seed, where its runs are finished; one start stands for all seeds."""
    if row.method == "zero_shot":
        start = next(iter(runs.values())).results["pretrained"]
        return {0: world.measures(start, start)}
    found = {}
    for seed in range(len(world.starts)):
        configs = configs_of(world, row, seed)
        behind = [runs[config.out] for config in configs if config.out in runs]
        if not behind or len(behind) < len(configs):
            continue
        results: Mapping[str, Any] = behind[0].results["student"]
        if row.method == "model_stock":
            path = Path(world.base.out) / "merged" / f"model_stock-seed{seed}.json"
            if only_finished and not path.is_file():
                continue
            results = kept(path, Make("model_stock", world, [one.folder for one in behind]))
        found[seed] = world.measures(results, behind[0].results["pretrained"])
    return found


def _row(row: PaperRow, backbone: str, found: Mapping[int, Measures]) -> dict[str, Any]:
    """Ours and the paper's in the columns that the table has; the mean is over its shifts, and needs all of them."""
    printed = printed_row(row.table, backbone, row.printed)
    shifts = [key for key in SHIFTS if key in printed or f"{key}_ece" in printed] or list(SHIFTS)
    for measured in found.values():
        for ending in ("", "_ece"):
            if all(f"{key}{ending}" in measured for key in shifts):
                measured[f"{MEAN}{ending}"] = mean(measured[f"{key}{ending}"] for key in shifts)
    return {
        "part": row.table,
        "id": f"{row.table}-{row.printed}",
        "method": f"Table {row.table}: {row.label}",
        "strength": row.value,
        "selected": False,
        "n": len(found) or None,
        "seeds": list(found),
        **{
            key: spread([m[key] for m in found.values()]) if all(key in m for m in found.values()) else None
            for key in printed
        },
        **{f"published_{key}": value for key, value in printed.items()},
    }


def _headline(done: int, wanted: int, claims: Sequence[Any], seeds: int, blank: Sequence[str]) -> list[str]:
    held, failed = (sum(c["holds"] is verdict for c in claims) for verdict in (True, False))
    said = [
        f"{done} of {wanted} runs are finished, {seeds_said(seeds)} each.",
        f"Of {len(claims)} claims {held} held and {failed} did not; {len(claims) - held - failed} stayed open.",
    ]
    if blank:
        looked = "; ".join(f"{SHIFTS[key].label} ({' or '.join(SHIFTS[key].folders)})" for key in blank)
        said.append(f"Not evaluated in every run, so blank there, and with it the mean of shifts: {looked}.")
    return said
