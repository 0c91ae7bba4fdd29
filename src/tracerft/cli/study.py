"""`tracerft study NAME`: an experiment of the paper, run, tabled and reported."""

import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from tracerft.cli import paper_study, world_studies
from tracerft.cli.options import Parser
from tracerft.errors import ArgumentError, did_you_mean

STUDIES = {
    "toy": "digits, then coloured digits: who learns colour without forgetting digits (Section 5.1)",
    "shift": "finetune in one style, see what is gained and lost in the others (emoji, or domain/class/* folders)",
    **world_studies.STUDIES,
    "paper": paper_study.TEXT,
    "theory": "gradient descent on the linear problem against every closed form (Section 3)",
}
HELP = (
    "usage: tracerft study NAME [options]\n\n"
    + "".join(f"  {name:<12}{text}\n" for name, text in STUDIES.items())
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
    if name in world_studies.STUDIES:
        _show(world_studies.run(name, rest, command))
    elif name == "paper":
        report = paper_study.run(rest, command)
        if report is not None:  # a plan has none
            _show(report)
    else:
        _show({"toy": _toy, "shift": _shift, "theory": _theory}[name](rest, command))


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
