"""`tracerft evaluate`: metrics of a run or a model on every split of a suite, and what changed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracerft.cli.options import Parser

if TYPE_CHECKING:
    from torch import Tensor

Hits = Mapping[str, "Mapping[str, Tensor]"]
ALL_SHIFTS = "mean of shifts"


def build_parser() -> Parser:
    """All options of the command."""
    text = "Evaluate a run (start, student, teacher) or a model on every split of a suite."
    parser = Parser("evaluate", text, "tracerft evaluate RUN_OR_MODEL [options]")
    parser.add_argument("model", type=str, help="a run folder, or a model as finetune takes it")
    parser.add_argument(
        "--suite",
        type=str,
        default=None,
        help="a YAML of an ID set and shifts, one data set, or digits; by default the run's own",
    )
    parser.add_argument(
        "--interpolate", type=int, default=0, help="points from pretrained to finetuned weights, 0 or 11"
    )
    parser.add_argument(
        "--templates",
        type=str,
        default="simple",
        help="of captions made from class names, for a model without a run: openai_imagenet, simple, a file, or a "
        "sentence with {}",
    )
    parser.add_argument(
        "--compare",
        type=str,
        nargs=2,
        default=None,
        metavar=("A", "B"),
        help="two models of the table: how much more A gets right than B, on the same images",
    )
    parser.add_argument("--predictions", type=str, default=None, help="folder to keep logits and labels in")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def run(arguments: Sequence[str]) -> None:
    """Print a table of results and one of differences, or JSON with ``--json``."""
    options = build_parser().read(arguments)
    from tracerft.api import evaluate

    predictions = None if options.predictions is None else Path(options.predictions)
    result = evaluate(
        options.model,
        options.suite,
        interpolate=options.interpolate,
        templates=options.templates,
        predictions=predictions,
    )
    found = differences(result.hits, pairs(tuple(result.results), options.compare))
    if options.json:
        print(json.dumps({"results": result.results, "differences": found}, indent=2))
        return
    print(result)
    if found:
        print_differences(found)


def pairs(models: Sequence[str], compare: Sequence[str] | None) -> list[tuple[str, str]]:
    """Which models to subtract: the finetuned ones from their start, or those asked for."""
    from tracerft.errors import one_of

    if compare is not None:
        for name in compare:
            one_of("compare", name, tuple(models))
        return [(compare[0], compare[1])]
    return [(name, "pretrained") for name in ("student", "teacher") if name in models and "pretrained" in models]


def differences(hits: Hits, wanted: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Paired differences of accuracy with 95 % intervals, by split, then of the mean over the shifts.

    Held-out training data is left out, as it is for choosing and no result.
    """
    from tracerft.evaluation.statistics import mean_paired_difference

    groups = {split: [split] for split in hits if not split.startswith("select-")}
    shifts = [split for split in groups if split != "id"]
    if len(shifts) > 1:
        groups[ALL_SHIFTS] = shifts
    rows = []
    for label, splits in groups.items():
        for first, second in wanted:
            d = mean_paired_difference([(hits[s][first], hits[s][second]) for s in splits])
            rows.append(
                {
                    "split": label,
                    "models": [first, second],
                    "metric": "top1",
                    "difference": d.difference,
                    "ci95": list(d.ci95),
                    "p": d.p,
                    "n": d.n,
                }
            )
    return rows


def print_differences(found: Sequence[Mapping[str, Any]]) -> None:
    """One row a split, one column a pair of models, in points of top-1 accuracy."""
    from tracerft.reports.terminal import print_table

    cells: dict[str, dict[str, str]] = {}
    for d in found:
        low, high = (100 * edge for edge in d["ci95"])
        cell = f"{100 * d['difference']:+.1f} [{low:+.1f}, {high:+.1f}]"
        cells.setdefault(d["split"], {})[" - ".join(d["models"])] = cell
    columns = list(dict.fromkeys(name for row in cells.values() for name in row))
    title = "difference in top-1, points, with its 95 % interval (paired bootstrap over the images)"
    print_table(["split", *columns], [[split, *(row[c] for c in columns)] for split, row in cells.items()], title=title)
