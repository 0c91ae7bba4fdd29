"""`tracerft export`: a finished model for another program, with a model card."""

import sys
from collections.abc import Sequence
from pathlib import Path

from tracerft.cli.options import Parser
from tracerft.errors import ArgumentError, DataError, one_of


def run(arguments: Sequence[str]) -> None:
    """Write the model and its card; prints the folder."""
    text = "Write a run's model for open_clip, transformers (hf) or ONNX, with a model card."
    parser = Parser("export", text, "tracerft export RUN --to FORMAT --out FOLDER [options]")
    parser.add_argument("run", type=str, help="folder of a finished run, or a model as finetune takes it")
    parser.add_argument("--to", type=str, required=True, help="open_clip, hf or onnx")
    parser.add_argument("--out", type=str, required=True, help="folder to write, new or empty")
    parser.add_argument("--model", type=str, default=None, help="student or teacher of a run (default: student)")
    parser.add_argument(
        "--license", type=str, default=None, help="of the exported weights, for the card; the base model's rules apply"
    )
    options = parser.read(arguments)
    print(export(options.run, Path(options.out), options.to, options.model, options.license))


def export(run: str, out: Path, to: str, model: str | None, license: str | None) -> Path:
    """Write one model.

    Args:
        run: a run folder, or anything `load_model` reads.
        out: a folder that is new or empty.
        to: the format.
        model: which of a run's models.
        license: for the card.

    Raises:
        ArgumentError: if ``model`` is given for something that is no run.
        DataError: if the run is not finished or has no such model.
    """
    from tracerft.models.export import FORMATS, export_model
    from tracerft.models.weights import load_model
    from tracerft.reports.card import write_card
    from tracerft.reports.record import read_record

    one_of("to", to, FORMATS)
    is_run = (Path(run) / "config.yaml").is_file()
    if model is not None and not is_run:
        raise ArgumentError(f"`model` chooses between the models of a run, and {run} is none; leave it out")
    one_of("model", model or "student", ("student", "teacher"))
    record = read_record(Path(run)) if is_run else None
    spec = str(Path(run) / (model or "student")) if is_run else run
    if is_run and not Path(spec).is_dir():
        raise DataError(f"{run}: the run has no {model}; its method made none")
    written = export_model(load_model(spec), out, to=to)
    card = write_card(written, to, record=record, model=model or "student", source=run, license=license)
    print(f"model card: {card}", file=sys.stderr)
    return written
