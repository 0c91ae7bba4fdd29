"""`tracerft finetune`: one run, from options, a YAML file, a preset, or a run that was cut off."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from tracerft.cli.options import Parser
from tracerft.config import DigitsConfig, FinetuneConfig, LossConfig, TeacherConfig, TrainConfig
from tracerft.errors import ArgumentError, did_you_mean

if TYPE_CHECKING:
    from tracerft.api import Run

DESCRIPTION = (
    "Finetune a dual encoder. Example: tracerft finetune --preset digits --out runs/digits. "
    "Options in a YAML file: --config run.yaml; the command line overrides it."
)

USAGE = "tracerft finetune --model MODEL --data DATA --out FOLDER [options]"


def build_parser() -> Parser:
    """All options of the command."""
    parser = Parser("finetune", DESCRIPTION, USAGE)
    parser.add_argument("--config", action="config", help="YAML file with options; --print_config prints one")
    parser.add_argument(
        "--preset", type=str, default=None, help=f"options that belong together: {', '.join(presets())}"
    )
    parser.add_argument("--resume", type=str, default=None, help="run folder to go on with; takes no other option")
    parser.add_argument("--json", action="store_true", help="print only JSON on stdout")
    parser.add_argument("--model", type=str, default=None, help="tiny, tiny:random, or a model or run folder")
    parser.add_argument("--data", type=str, default=None, help="digits, or a folder with MNIST IDX files")
    parser.add_argument("--out", type=str, default=None, help="folder to make for the run")
    parser.add_argument("--method", type=str, default="tracer", help="a name from tracerft methods")
    parser.add_argument("--freeze", type=str, default="none", help="none, text (all but the image tower) or image")
    for name, group in (
        ("train", TrainConfig),
        ("teacher", TeacherConfig),
        ("loss", LossConfig),
        ("digits", DigitsConfig),
    ):
        parser.add_argument(f"--{name}", type=group, default=group())
    return parser


def presets() -> list[str]:
    """Names of the packaged presets."""
    return sorted(f.name.removesuffix(".yaml") for f in (resources.files("tracerft") / "presets").iterdir())


def read_options(arguments: Sequence[str]) -> tuple[FinetuneConfig, bool, bool]:
    """Configuration, whether to resume, and whether to print JSON only.

    Raises:
        ArgumentError: one line for any mistake.
    """
    arguments = _expand_preset(list(arguments))
    options = build_parser().read(arguments)
    if options.resume is not None:
        return _resumed(options.resume, arguments), True, options.json
    missing = [f"--{name}" for name in ("model", "data", "out") if getattr(options, name) is None]
    if missing:
        raise ArgumentError(f"{' and '.join(missing)} must be given; see tracerft finetune --help")
    groups = {n: getattr(options, n) for n in ("train", "teacher", "loss", "digits")}
    flat = {name: getattr(options, name) for name in ("model", "data", "out", "method", "freeze")}
    return FinetuneConfig(**flat, **groups), False, options.json


def _expand_preset(arguments: list[str]) -> list[str]:
    """Put a preset's file first, so that every other option overrides it."""
    for i, argument in enumerate(arguments):
        name, used = (argument.partition("=")[2], 1) if argument.startswith("--preset=") else (None, 2)
        if argument == "--preset":
            name = arguments[i + 1] if i + 1 < len(arguments) else ""
        if name is None:
            continue
        if name not in presets():
            raise ArgumentError(
                f"unknown preset {name!r}{did_you_mean(name, presets())}; there are: {', '.join(presets())}"
            )
        with resources.as_file(resources.files("tracerft") / "presets" / f"{name}.yaml") as path:
            return ["--config", str(path), *arguments[:i], *arguments[i + used :]]
    return arguments


def _resumed(folder: str, arguments: Sequence[str]) -> FinetuneConfig:
    extra = [a for a in arguments if a.startswith("--") and a.split("=")[0] not in ("--resume", "--json")]
    if extra:
        raise ArgumentError(f"--resume goes on with the run as it was and takes no {extra[0]}; leave it out")
    from tracerft.config import read_config
    from tracerft.errors import RunFolderError

    if not (Path(folder) / "config.yaml").is_file():
        raise RunFolderError(f"{folder}: nothing to resume, no config.yaml there; start the run with --out {folder}")
    return replace(read_config(Path(folder) / "config.yaml"), out=folder)


def run(arguments: Sequence[str]) -> None:
    """Train, evaluate, print the table and the report's path."""
    config, resume, only_json = read_options(arguments)
    result = _train(config, resume)
    if only_json:
        print(json.dumps({"results": result.results}, indent=2))
        return
    print(result)
    print(f"report: {result.folder / 'report.html'}", file=sys.stderr)


def _train(config: FinetuneConfig, resume: bool) -> "Run":
    from tracerft.api import run_config
    from tracerft.cli.progress import training_progress

    with training_progress(f"{config.method} on {config.data}") as progress:
        return run_config(config, resume=resume, progress=progress)
