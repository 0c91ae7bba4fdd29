"""Entry point: picks the command, turns errors into one line, sets the exit code.

Exit codes: 0 done, 1 a run that failed, 2 the user's mistake, 130 interrupted,
143 stopped by a signal after the step was saved.
"""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper

from tracerft.cli.ranks import rank, refuse_ranks
from tracerft.errors import NonFiniteError, StoppedError, TracerftError, WorkerError, did_you_mean

COMMANDS = {
    "finetune": "finetune a dual encoder and see what it gained and forgot",
    "evaluate": "evaluate a run or a model on every split of a suite",
    "predict": "classify images with a run, and with the model it started from",
    "merge": "merge finished runs into one model: WiSE-FT, soups, Model Stock, TPGM",
    "export": "write a run's model for open_clip, transformers or ONNX, with a model card",
    "inspect": "look at a data set before a run: what is broken, repeated, leaked",
    "import-pt": "turn a foreign .pt file into safetensors without running its code",
    "methods": "list the finetuning methods",
    "study": "repeat an experiment of the paper, or compare all methods in one setting",
    "compare": "put finished runs on one page, with tables for Markdown, CSV and LaTeX",
    "report": "write report.html of a finished run or study again",
}

USAGE = "usage: tracerft [--debug] COMMAND ...\n\n"
HELP = (
    USAGE
    + "Robust finetuning of CLIP-style models: gain on your task, keep what the model knew.\n\ncommands:\n"
    + "".join(f"  {name:<11}{text}\n" for name, text in COMMANDS.items())
    + "\noptions:\n"
    + "  --debug   show the traceback of an error\n"
    + "  --version print the version\n"
    + "  --help    tracerft COMMAND --help tells the options of a command\n"
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    if isinstance(sys.stdout, TextIOWrapper):  # a file name may hold what no encoding has
        sys.stdout.reconfigure(errors="backslashreplace")
    warnings.showwarning = _show_warning  # type: ignore[assignment]  # it takes the rest as it comes
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def _show_warning(message: Warning | str, *_: object) -> None:
    """A warning as a line of the command's own, without the place in the code that it comes from."""
    if rank() == 0:  # the others are warned of the same
        print(f"tracerft: warning: {one_line(str(message))}", file=sys.stderr)


def run(arguments: list[str]) -> int:
    """Run the command line; returns the exit code."""
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(version("tracerft"))
        return 0
    try:
        if arguments[0] not in COMMANDS:
            raise TracerftError(
                f"unknown command {arguments[0]!r}{did_you_mean(arguments[0], list(COMMANDS))}; see tracerft --help"
            )
        if arguments[0] != "finetune":
            refuse_ranks(f"tracerft {arguments[0]}")
        import_module(f"tracerft.cli.{arguments[0].replace('-', '_')}").run(arguments[1:])
    except TracerftError as error:
        if debug:
            raise
        where = f"rank {rank()}: " if rank() else ""
        print(f"tracerft: {where}{one_line(str(error))}", file=sys.stderr)
        if isinstance(error, StoppedError):
            return 143
        return 1 if isinstance(error, (NonFiniteError, WorkerError)) else 2
    except OSError as error:
        if debug or error.filename is None:  # one without a file is not about what the user named
            raise
        what = f"{error.filename}: {error.strerror}; check that path, or give another"
        print(f"tracerft: {one_line(what)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "tracerft: interrupted; finetune --resume or the same study command goes on from the last checkpoint",
            file=sys.stderr,
        )
        return 130
    return 0


def one_line(text: str) -> str:
    """Text for a terminal: one line, control characters made visible."""
    folded = " ".join(text.split())
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in folded)
