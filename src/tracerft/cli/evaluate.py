"""`tracerft evaluate`: metrics of a run or a model on every split of a suite, and what changed."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracerft.cli.options import Parser

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tracerft.evaluation.resampling import Answers
    from tracerft.evaluation.statistics import PairedDifference

ALL_SHIFTS = "mean of shifts"
FINETUNED = ("student", "teacher", "average", "guarded")
METRICS = {"top1": "top-1", "macro_f1": "macro F1", "worst_group": "worst group", "ece_15": "ECE"}


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
        "--against",
        type=str,
        default=None,
        metavar="RUN",
        help="a second run: both on the same images, with the first one's classes, and how they differ",
    )
    parser.add_argument(
        "--interpolate",
        type=int,
        default=0,
        help="points from pretrained to finetuned weights, 0 or 11; on a run's own suite its report draws them",
    )
    parser.add_argument(
        "--dawin", action="store_true", help="also DaWin: start and student mixed by entropies on the test images"
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
        help="two models of the table, to subtract B from A, on the same images",
    )
    parser.add_argument("--predictions", type=str, default=None, help="folder to keep logits, labels and examples in")
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
        against=options.against,
        interpolate=options.interpolate,
        dawin=options.dawin,
        templates=options.templates,
        predictions=predictions,
    )
    found = differences(result.answers, pairs(tuple(result.results), options.compare))
    if options.interpolate and options.against is None:
        draw(Path(options.model), options.suite, result.results)
    if options.json:
        print(json.dumps({"results": result.results, "differences": found}, indent=2))
        return
    print(result)
    if found:
        print_differences(found)


def draw(folder: Path, suite: str | None, results: Mapping[str, Any]) -> None:
    """Write the run's report with what was found between its start and its models, if that was on its own suite."""
    from tracerft.config import read_config
    from tracerft.reports.run import write_run_report
    from tracerft.reports.trade_off import write_interpolated

    own = read_config(folder / "config.yaml").suite
    if suite is not None and (own is None or Path(suite).resolve() != Path(own).resolve()):
        return
    try:
        write_interpolated(folder, results)
        print(f"curves in {write_run_report(folder)}", file=sys.stderr)
    except OSError as error:  # somebody else's run can be evaluated all the same
        print(f"tracerft: {folder} cannot be written ({error.strerror}): its report is left as it was", file=sys.stderr)


def pairs(models: Sequence[str], compare: Sequence[str] | None) -> list[tuple[str, str]]:
    """Which models to subtract: the finetuned ones from their start or from those of the other run, or those asked."""
    from tracerft.errors import one_of

    if compare is not None:
        for name in compare:
            one_of("compare", name, tuple(models))
        return [(compare[0], compare[1])]
    runs = list(dict.fromkeys(name.rpartition("/")[0] for name in models))
    if len(runs) == 2:
        wanted = [(f"{runs[0]}/{name}", f"{runs[1]}/{name}") for name in FINETUNED]
    else:
        wanted = [(name, "pretrained") for name in FINETUNED]
    return [(first, second) for first, second in wanted if first in models and second in models]


def differences(answers: Mapping[str, "Answers"], wanted: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Paired differences with 95 % intervals, by split, then of the mean over the shifts.

    Of accuracy, of the split's own metric where it has another, and of the calibration error. Held-out training data is
    left out, as it is for choosing and no result. The mean is over shifts that share the metric.
    """
    reported = {split: found for split, found in answers.items() if not split.startswith("select-")}
    values = _resampled(reported, {name for pair in wanted for name in pair})
    rows = []
    for metric in METRICS:
        having = [split for split, found in reported.items() if metric in ("top1", "ece_15", found.metric)]
        groups = {split: [split] for split in having}
        shifts = [split for split in having if split != "id"]
        if len(shifts) > 1:
            groups[ALL_SHIFTS] = shifts
        for label, splits in groups.items():
            for first, second in wanted:
                d = _difference([reported[s] for s in splits], [values[s] for s in splits], metric, first, second)
                rows.append(
                    {
                        "split": label,
                        "models": [first, second],
                        "metric": metric,
                        "difference": d.difference,
                        "ci95": list(d.ci95),
                        "p": d.p,
                        "n": d.n,
                    }
                )
    return rows


def _resampled(answers: Mapping[str, "Answers"], models: set[str]) -> dict[str, dict[tuple[str, str], "NDArray[Any]"]]:
    """By split, then by metric and model: the metrics that are no mean over samples, each split with its own draws."""
    from tracerft.evaluation.resampling import resample

    return {
        split: resample(
            {
                (metric, m): of.weighted(metric, m)
                for metric in {of.metric, "ece_15"} - {"top1"}
                for m in sorted(models)
            },
            len(of.labels),
            seed=number,
        )
        for number, (split, of) in enumerate(answers.items())
        if models
    }


def _difference(
    answers: Sequence["Answers"],
    values: Sequence[Mapping[tuple[str, str], "NDArray[Any]"]],
    metric: str,
    first: str,
    second: str,
) -> "PairedDifference":
    from tracerft.evaluation.resampling import resampled_difference
    from tracerft.evaluation.statistics import mean_paired_difference

    if metric == "top1":
        return mean_paired_difference([(of.hits(first), of.hits(second)) for of in answers])
    n = sum(len(of.labels) for of in answers)
    return resampled_difference([(v[metric, first], v[metric, second]) for v in values], n=n)


def print_differences(found: Sequence[Mapping[str, Any]]) -> None:
    """A table a metric: one row a split, one column a pair of models, in points."""
    from tracerft.reports.terminal import print_table

    for metric in dict.fromkeys(d["metric"] for d in found):
        cells: dict[str, dict[str, str]] = {}
        for d in (d for d in found if d["metric"] == metric):
            low, high = (100 * edge for edge in d["ci95"])
            cell = f"{100 * d['difference']:+.1f} [{low:+.1f}, {high:+.1f}]"
            cells.setdefault(d["split"], {})[" - ".join(d["models"])] = cell
        columns = list(dict.fromkeys(name for row in cells.values() for name in row))
        rows = [[split, *(row[c] for c in columns)] for split, row in cells.items()]
        title = f"difference in {METRICS[metric]}, points, with its 95 % interval (paired bootstrap over the images)"
        print_table(["split", *columns], rows, title=title)
