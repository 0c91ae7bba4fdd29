"""`tracerft study NAME`: an experiment of the paper, run, tabled and reported."""

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tracerft.cli.options import Parser
from tracerft.errors import ArgumentError, did_you_mean

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from tracerft.studies.runner import Progress
    from tracerft.studies.worlds import World

STUDIES = {
    "toy": "digits, then coloured digits: who learns colour without forgetting digits (Section 5.1)",
    "shift": "finetune in one style, see what is gained and lost in the others (emoji, or domain/class/* folders)",
    "compare": "all methods in one setting, with what each costs: own folders and suite, emoji, or digits",
    "theory": "gradient descent on the linear problem against every closed form (Section 3)",
}
HELP = (
    "usage: tracerft study NAME [options]\n\n"
    + "".join(f"  {name:<8}{text}\n" for name, text in STUDIES.items())
    + "\ntracerft study NAME --help tells the options of a study\n"
)


def run(arguments: Sequence[str]) -> None:
    """Run a study; prints its table and the path of its report."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP, end="")
        return
    name, rest = arguments[0], arguments[1:]
    if name not in STUDIES:
        raise ArgumentError(
            f"unknown study {name!r}{did_you_mean(name, list(STUDIES))}; there are: {', '.join(STUDIES)}"
        )
    command = shlex.join(["tracerft", "study", *arguments])
    report = {"toy": _toy, "shift": _shift, "compare": _compare, "theory": _theory}[name](rest, command)
    _show(report)


def _toy(arguments: Sequence[str], command: str) -> Path:
    parser = Parser("study toy", STUDIES["toy"])
    parser.add_argument("--out", type=str, default="runs/toy", help="folder of the study; finished runs in it are kept")
    parser.add_argument("--size", type=str, default="quick", help="quick (minutes), standard (an hour) or full (a day)")
    parser.add_argument(
        "--data", type=str, default=None, help="folder with MNIST IDX files; embedded digits by default"
    )
    parser.add_argument("--download", action="store_true", help="fetch MNIST into --data through torchvision")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, a core each")
    options = parser.read(arguments)
    from tracerft.cli.progress import study_progress
    from tracerft.studies import toy

    data = None if options.data is None else Path(options.data)
    with study_progress("toy study") as progress:
        return toy.run(
            Path(options.out),
            size=options.size,
            data=data,
            seeds=options.seeds,
            workers=options.workers,
            download=options.download,
            progress=progress,
            command=command,
        )


def _shift(arguments: Sequence[str], command: str) -> Path:
    parser = Parser("study shift", STUDIES["shift"])
    parser.add_argument("--data", type=str, required=True, help="folder of domains, each with class folders; or emoji")
    parser.add_argument(
        "--out", type=str, default="runs/shift", help="folder of the study; finished runs in it are kept"
    )
    parser.add_argument("--style", type=str, default=None, help="domain to finetune in; the first by name by default")
    parser.add_argument("--model", type=str, default="mini:lite0-minilm@96", help="start, where the data are not emoji")
    parser.add_argument("--steps", type=int, default=150, help="optimiser steps of each run")
    parser.add_argument("--batch_size", type=int, default=32, help="pairs in a batch")
    parser.add_argument("--lr", type=float, default=1e-4, help="peak learning rate")
    parser.add_argument("--seeds", type=int, default=1, help="seeds for the selected strengths")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, a core each")
    options = parser.read(arguments)
    from tracerft.cli.progress import study_progress
    from tracerft.studies import shift

    numbers = {
        name: getattr(options, name) for name in ("style", "model", "steps", "batch_size", "lr", "seeds", "workers")
    }
    with study_progress("shift study") as progress:
        return shift.run(Path(options.out), data=Path(options.data), progress=progress, command=command, **numbers)


def _compare(arguments: Sequence[str], command: str) -> Path:
    parser = Parser("study compare", STUDIES["compare"])
    data = "what to finetune on: as finetune takes it; <emoji>/<style> and digits have their own start and suite"
    parser.add_argument("--data", type=str, required=True, help=data)
    parser.add_argument("--out", type=str, default="runs/compare", help="folder of the study; finished runs are kept")
    parser.add_argument("--methods", type=str, default="all", help="all, or names with commas (tracerft methods)")
    parser.add_argument("--suite", type=str, default=None, help="of own data: a YAML of an ID set and shifts")
    parser.add_argument("--model", type=str, default="mini:lite0-minilm@96", help="start, for own data")
    parser.add_argument("--templates", type=str, default="simple", help="captions of classes, for own data")
    parser.add_argument("--size", type=str, default="quick", help="of digits: quick, standard or full")
    parser.add_argument("--steps", type=int, default=150, help="optimiser steps of each run; digits have their own")
    parser.add_argument("--batch_size", type=int, default=32, help="pairs in a batch; digits have their own")
    parser.add_argument("--lr", type=float, default=1e-4, help="peak learning rate; digits have their own")
    parser.add_argument("--seeds", type=int, default=1, help="seeds for the selected strengths")
    parser.add_argument("--budget", type=int, default=5, help="strengths of each method at seed 0: 1, 3 or 5")
    parser.add_argument("--finished", action="store_true", help="run nothing, table what is finished")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, a core each")
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


def _world(options: "Namespace", progress: "Progress") -> "World":
    """The setting that the data asks for."""
    from tracerft.config import FinetuneConfig, TrainConfig
    from tracerft.sources import is_digits
    from tracerft.studies import shift, toy, worlds
    from tracerft.studies.shift_data import is_emoji

    data, out = Path(options.data), Path(options.out)
    if is_digits(options.data):
        folder = None if options.data == "digits" else data
        return toy.world(
            out, size=options.size, data=folder, seeds=options.seeds, workers=options.workers, progress=progress
        )
    numbers = {name: getattr(options, name) for name in ("steps", "batch_size", "lr")}
    if is_emoji(data.parent):
        return shift.world(out, data=data.parent, style=data.name, seeds=options.seeds, **numbers)
    train = TrainConfig(**numbers, device="cpu", checkpoint_every=0)
    named = {name: getattr(options, name) for name in ("model", "data", "out", "suite", "templates")}
    return worlds.folder_world(FinetuneConfig(**named, train=train), options.seeds)


def _theory(arguments: Sequence[str], command: str) -> Path:
    parser = Parser("study theory", STUDIES["theory"])
    parser.add_argument("--out", type=str, default="runs/theory", help="folder of the study")
    parser.add_argument("--seed", type=int, default=0, help="of the random linear problem")
    options = parser.read(arguments)
    from tracerft.studies.runner import write_study
    from tracerft.studies.theory import run as run_theory

    out, started = Path(options.out), time.perf_counter()
    return write_study(out, run_theory(out, seed=options.seed), command, started)


def _show(report: Path) -> None:
    """The headline, the selected rows and the claims on stdout, then the report's path."""
    from tracerft.reports.record import read_json
    from tracerft.reports.terminal import print_study

    print_study(read_json(report.parent / "study.json", "run the study again"))
    print(f"report: {report}")
