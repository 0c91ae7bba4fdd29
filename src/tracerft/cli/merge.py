"""`tracerft merge`: finished runs to one model, evaluated on the first run's own suite."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tracerft.cli.options import Parser


def build_parser() -> Parser:
    """All options of the command."""
    text = (
        "Merge finished runs that share one start into a model: wise (one run and its start), uniform_soup, "
        "greedy_soup, model_stock, tpgm (one run)."
    )
    parser = Parser("merge", text, "tracerft merge KIND RUN [RUN ...] --out FOLDER [options]")
    parser.add_argument("kind", type=str, help="wise, uniform_soup, greedy_soup, model_stock or tpgm")
    parser.add_argument("runs", type=str, nargs="+", help="folders of finished runs")
    parser.add_argument("--out", type=str, required=True, help="folder to make for the model")
    parser.add_argument("--alpha", type=float, default=0.5, help="of wise: share of the finetuned weights, 0 to 1")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def run(arguments: Sequence[str]) -> None:
    """Merge, write, evaluate, print."""
    options = build_parser().read(arguments)
    from tracerft.api import Evaluation
    from tracerft.config import read_config
    from tracerft.errors import RunFolderError
    from tracerft.evaluation.suite import evaluate_models
    from tracerft.merging import merge
    from tracerft.models.weights import load_model, save_model
    from tracerft.sources import run_suite

    out, runs = Path(options.out), [Path(folder) for folder in options.runs]
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunFolderError(f"{out}: exists and is not empty; choose another --out")
    config = read_config(runs[0] / "config.yaml") if (runs[0] / "config.yaml").is_file() else None
    start = None if config is None else load_model(config.model, seed=config.train.seed)
    suite = None if config is None or start is None else run_suite(config, start, None)
    merged = merge(options.kind, runs, alpha=options.alpha, suite=suite)
    save_model(merged.model, out)
    assert start is not None
    assert suite is not None
    models = {"pretrained": start.model, "merged": merged.model}
    result = Evaluation(evaluate_models(models, suite.splits(), start.tokenize))
    if options.json:
        print(json.dumps({"note": merged.note, "results": result.results}, indent=2))
        return
    print(result)
    print(f"{options.kind}: {merged.note}; written to {out}", file=sys.stderr)
