"""`tracerft evaluate`: metrics of a run or a model on every split of a suite."""

import json
from collections.abc import Sequence
from pathlib import Path

from tracerft.cli.options import Parser


def run(arguments: Sequence[str]) -> None:
    """Print a table, or JSON with ``--json``."""
    parser = Parser("evaluate", "Evaluate a run (start, student, teacher) or a model on every split of a suite.")
    parser.add_argument("model", type=str, help="a run folder, a model folder, or tiny")
    parser.add_argument("--suite", type=str, default=None, help="digits or a folder with MNIST IDX files")
    parser.add_argument(
        "--interpolate", type=int, default=0, help="points from pretrained to finetuned weights, 0 or 11"
    )
    parser.add_argument("--predictions", type=str, default=None, help="folder to keep logits and labels in")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.read(arguments)
    from tracerft.api import evaluate

    predictions = None if options.predictions is None else Path(options.predictions)
    result = evaluate(options.model, options.suite, interpolate=options.interpolate, predictions=predictions)
    print(json.dumps({"results": result.results}, indent=2) if options.json else result)
