"""Studies that run on any data: all methods compared, and the paper's ablations, cost, similarity and dynamics.

Those that share ``--out`` and data share finished runs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tracerft.cli.options import Parser

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from tracerft.studies.runner import Progress
    from tracerft.studies.worlds import World

STUDIES = {
    "compare": "all methods in one setting, with what each costs: own folders and suite, emoji, or digits",
    "recipe": "candidates for the default of the folder-small preset, every one at every seed",
    "ablations": "which terms, how strongly, how often the teacher is updated, which kernel (Tables 8 to 11)",
    "cost": "time and memory of a training step of every method, measured in turns (Table 4)",
    "similarity": "how far finetuning moves each layer of the image tower: CKA and SVCCA (Figure 4)",
    "dynamics": "how far teacher and student are apart while training goes on (Figures 5 and 6)",
}
WORLD = ("data", "suite", "model", "templates", "size", "steps", "batch_size", "lr", "seeds", "workers")


def run(name: str, arguments: Sequence[str], command: str) -> Path:
    """Run one of `STUDIES`; returns the path of its report."""
    return _compare(arguments, command) if name == "compare" else _figure(name, arguments, command)


def _compare(arguments: Sequence[str], command: str) -> Path:
    parser = Parser("study compare", STUDIES["compare"])
    _world_options(parser, out="runs/compare", seeds=1)
    parser.add_argument("--methods", type=str, default="all", help="all, or names with commas (tracerft methods)")
    parser.add_argument("--budget", type=int, default=5, help="strengths of each method at seed 0: 1, 3 or 5")
    parser.add_argument("--finished", action="store_true", help="run nothing, table what is finished")
    options = parser.read(arguments)
    from tracerft.cli.progress import study_progress
    from tracerft.studies import compare

    methods = () if options.methods == "all" else tuple(name.strip() for name in options.methods.split(","))
    with study_progress("comparison") as progress:
        return compare.run(
            Path(options.out),
            _world(options, progress),
            methods=methods,
            seeds=options.seeds,
            budget=options.budget,
            only_finished=options.finished,
            workers=options.workers,
            progress=progress,
            command=command,
        )


def _figure(name: str, arguments: Sequence[str], command: str) -> Path:
    """A figure or table of the paper: runs in ``OUT/runs``, the report in ``OUT/NAME``."""
    parser = Parser(f"study {name}", STUDIES[name])
    _world_options(parser, out="runs/studies", seeds=3 if name == "cost" else 1, data="digits")
    options = parser.read(arguments)
    from tracerft.cli.progress import study_progress
    from tracerft.studies import ablations, cost, dynamics, recipe, similarity

    folder, seeds = Path(options.out) / name, options.seeds
    with study_progress(name) as progress:
        world = _world(options, progress)
        if name == "cost":  # what is measured runs alone
            return cost.run(folder, world, seeds=seeds, progress=progress, command=command)
        study = {"ablations": ablations, "dynamics": dynamics, "recipe": recipe, "similarity": similarity}[name]
        run_study = study.run
        report: Path = run_study(
            folder, world, seeds=seeds, workers=options.workers, progress=progress, command=command
        )
        return report


def _world_options(parser: Parser, *, out: str, seeds: int, data: str | None = None) -> None:
    """What says on which data, and how long; ``data`` must be given where it has no default."""
    asked = "what to finetune on: as finetune takes it; <emoji>/<style> and digits have their own start and suite"
    parser.add_argument("--data", type=str, required=data is None, default=data, help=asked)
    parser.add_argument("--out", type=str, default=out, help="folder of the study; finished runs in it are kept")
    parser.add_argument("--suite", type=str, default=None, help="of own data: a YAML of an ID set and shifts")
    parser.add_argument("--model", type=str, default="mini:lite0-minilm@96", help="start, for own data")
    parser.add_argument("--templates", type=str, default="simple", help="captions of classes, for own data")
    parser.add_argument("--size", type=str, default="quick", help="of digits: quick, standard or full")
    parser.add_argument("--steps", type=int, default=150, help="optimiser steps of each run; digits have their own")
    parser.add_argument("--batch_size", type=int, default=32, help="pairs in a batch; digits have their own")
    parser.add_argument("--lr", type=float, default=1e-4, help="peak learning rate; digits have their own")
    parser.add_argument("--seeds", type=int, default=seeds, help="number of seeds; of compare, for selected strengths")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, a core each")


def _world(options: "Namespace", progress: "Progress") -> "World":
    """The setting that the data asks for."""
    from tracerft.studies.any_world import world_of

    return world_of(Path(options.out), progress=progress, **{name: getattr(options, name) for name in WORLD})
