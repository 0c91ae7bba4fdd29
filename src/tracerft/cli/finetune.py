"""`tracerft finetune`: one run, from options, a YAML file, a preset, or a run that was cut off."""

import json
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, get_type_hints

from tracerft.cli.options import Parser, described
from tracerft.cli.ranks import rank, refuse_ranks
from tracerft.config import GROUPS, FinetuneConfig
from tracerft.errors import ArgumentError, did_you_mean

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from tracerft.api import Run
    from tracerft.preparing import Ready

DESCRIPTION = (
    "Finetune a dual encoder. Example: tracerft finetune --preset digits --out runs/digits. "
    "Options in a YAML file: --config run.yaml; the command line overrides it."
)

USAGE = "tracerft finetune --model MODEL --data DATA --out FOLDER [options]"
REQUIRED = ("model", "data", "out")
FLAT = tuple(f.name for f in fields(FinetuneConfig) if f.name not in GROUPS)


def build_parser() -> Parser:
    """All options of the command: a few of its own, then every field of `FinetuneConfig`."""
    parser = Parser("finetune", DESCRIPTION, USAGE)
    parser.add_argument("--config", action="config", help="YAML file with options; --print_config prints one")
    parser.add_argument(
        "--preset", type=str, default=None, help=f"options that belong together: {', '.join(presets())}"
    )
    parser.add_argument("--resume", type=str, default=None, help="run folder to go on with; takes no other option")
    parser.add_argument("--dry_run", action="store_true", help="say what would happen, time two steps, write nothing")
    parser.add_argument("--json", action="store_true", help="print only JSON on stdout")
    types, texts = get_type_hints(FinetuneConfig), described(FinetuneConfig)
    for option in fields(FinetuneConfig):
        if option.name in FLAT:
            required = option.name in REQUIRED
            parser.add_argument(
                f"--{option.name}",
                type=str | None if required else types[option.name],
                default=None if required else option.default,
                help=texts[option.name],
            )
    for name, group in GROUPS.items():
        parser.add_argument(f"--{name}", type=group, default=group())
    return parser


def presets() -> list[str]:
    """Names of the packaged presets."""
    files = (f.name for f in (resources.files("tracerft") / "presets").iterdir())
    return sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml"))


def read_options(arguments: Sequence[str]) -> tuple[FinetuneConfig, bool, bool]:
    """Configuration, whether to resume, and whether to print JSON only.

    Raises:
        ArgumentError: one line for any mistake.
    """
    config, resume, only_json, _ = _read(arguments)
    return config, resume, only_json


def _read(arguments: Sequence[str]) -> tuple[FinetuneConfig, bool, bool, bool]:
    preset, typed = _split_preset(list(arguments))
    parser = build_parser()
    options = parser.read([*preset, *typed])  # first the preset's file, so that what was typed overrides it
    if options.resume is not None:
        return _resumed(options.resume, [*preset, *typed]), True, options.json, False
    missing = [f"--{name}" for name in REQUIRED if getattr(options, name) is None]
    if missing:
        raise ArgumentError(f"{' and '.join(missing)} must be given; see tracerft finetune --help")
    config = _config(options)
    from tracerft.preparing import refuse_unused

    refuse_unused(config, before=_config(parser.read(preset)))
    return config, False, options.json, options.dry_run


def _config(options: "Namespace") -> FinetuneConfig:
    return FinetuneConfig(**{name: getattr(options, name) for name in (*FLAT, *GROUPS)})


def _split_preset(arguments: list[str]) -> tuple[list[str], list[str]]:
    """``--config FILE`` of the preset, empty without one, and what the user typed beside it."""
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
            return ["--config", str(path)], [*arguments[:i], *arguments[i + used :]]
    return [], arguments


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
    """Train, evaluate, print the table and the report's path; or only say what would be done."""
    config, resume, only_json, dry = _read(arguments)
    if dry:
        refuse_ranks("a dry run")
        _dry_run(config, only_json)
        return
    result = _train(config, resume)
    if rank():
        return
    if only_json:
        print(json.dumps({"results": result.results}, indent=2))
        return
    print(result)
    print(f"report: {result.folder / 'report.html'}", file=sys.stderr)


def _train(config: FinetuneConfig, resume: bool) -> "Run":
    from tracerft.api import run_config
    from tracerft.cli.progress import training_progress

    def announce(ready: "Ready") -> None:
        from tracerft.describe import describe

        if resume or not _in_use(Path(config.out)):  # one that is in use is about to be refused, in one line
            print(_text(describe(ready)), file=sys.stderr)

    with training_progress(f"{config.method} on {config.data}") as progress:
        return run_config(config, resume=resume, progress=progress, announce=announce)


def _dry_run(config: FinetuneConfig, only_json: bool) -> None:
    from tracerft.api import make_ready
    from tracerft.describe import describe, time_steps, timing_lines

    ready = make_ready(config)
    lines = describe(ready)
    lines += timing_lines(ready, time_steps(ready))
    print(json.dumps(dict(lines), indent=2) if only_json else _text(lines))


def _in_use(folder: Path) -> bool:
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def _text(lines: Sequence[tuple[str, str]]) -> str:
    width = max(len(label) for label, _ in lines)
    return "\n".join(f"{label:<{width}}  {text}" for label, text in lines)
