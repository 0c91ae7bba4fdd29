"""`tracerft inspect`: a look at a data set before a run."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tracerft.cli.options import Parser
from tracerft.config import ColumnsConfig, TrainConfig
from tracerft.errors import ArgumentError, DataError

if TYPE_CHECKING:
    from tracerft.data.manifest import Manifest


def run(arguments: Sequence[str]) -> None:
    """Print what is there and what is wrong with it; problems are no failure of the command."""
    text = "Read every image of a data set once: what is there, broken, repeated or leaked."
    parser = Parser("inspect", text, "tracerft inspect DATA [options]")
    parser.add_argument("data", type=str, help="class folders, a table, tars, or a saved data set")
    parser.add_argument("--against", type=str, default=None, help="another set, such as the test set, to find leaks")
    parser.add_argument("--classes", type=str, default=None, help="file of class names, one a line")
    parser.add_argument("--model", type=str, default=None, help="whose tokenizer says which captions are too long")
    parser.add_argument(
        "--batch_size", type=int, default=TrainConfig().batch_size, help="to count equal captions in a batch"
    )
    parser.add_argument("--columns", type=ColumnsConfig, default=ColumnsConfig())
    same = "Columns of the set of --against; by default those of --columns"
    parser.add_argument("--against_columns", type=ColumnsConfig, default=ColumnsConfig(), help=same)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    options = parser.read(arguments)
    if options.batch_size < 2:
        raise ArgumentError(f"`batch_size` must be at least 2; got {options.batch_size}")
    from tracerft.data.inspect import inspect_data, inspection_text
    from tracerft.data.manifest import read_manifest
    from tracerft.models.weights import load_model

    columns = options.columns.named()
    manifest = read_manifest(options.data, columns=columns, classes=options.classes)
    against = None if options.against is None else _other(options.against, columns, options.against_columns.named())
    tokenize = None if options.model is None else load_model(options.model).tokenize
    found = inspect_data(manifest, against=against, tokenize=tokenize, batch_size=options.batch_size)
    print(json.dumps(found, indent=2, ensure_ascii=False) if options.json else inspection_text(found))


def _other(data: str, columns: dict[str, str], own: dict[str, str]) -> "Manifest":
    """The other set, read with the same columns but for those that are said to be its own."""
    from tracerft.data.manifest import read_manifest

    try:
        return read_manifest(data, columns=columns | own)
    except DataError as error:
        if "columns." not in str(error):
            raise
        raise DataError(f"{error} (--against_columns.* names the columns of --against)") from error
