"""`tracerft study paper`: the paper's ImageNet tables of a backbone, or with --dry_run what they would take."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tracerft.cli.options import Parser
from tracerft.errors import ArgumentError

TEXT = "the paper's ImageNet tables of a backbone, ours beside the published numbers (Tables 1 to 3 and 5 to 11)"


def run(arguments: Sequence[str], command: str) -> Path | None:
    """Run or table the study and return the path of its report; or print the plan."""
    parser = Parser("study paper", TEXT)
    folders = "train, val and shifts: imagenet-v2, -r, -a, sketch, objectnet; a plan needs none"
    parser.add_argument("--imagenet", type=str, default=None, help=f"folder with {folders}")
    parser.add_argument("--backbone", type=str, default="ViT-B/16", help="ViT-B/16, RN50 or ViT-L/14")
    parser.add_argument("--tables", type=str, default="all", help="numbers with commas, or all of the backbone")
    parser.add_argument("--out", type=str, default="runs/paper", help="folder of the study; finished runs are kept")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of every run")
    parser.add_argument("--model", type=str, default=None, help="start; OpenAI's weights by default")
    parser.add_argument("--steps", type=int, default=None, help="optimiser steps of each run; ten epochs by default")
    parser.add_argument("--batch_size", type=int, default=None, help="pairs in a batch; the recipe's by default")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time, all on one device")
    parser.add_argument("--finished", action="store_true", help="run nothing, table what is finished")
    parser.add_argument("--dry_run", action="store_true", help="say what would be run and what it takes, read nothing")
    rate = "images a second of your machine in direct finetuning (ce_ft), to plan hours"
    parser.add_argument("--images_per_second", type=float, default=None, help=rate)
    options = parser.read(arguments)
    if options.imagenet is None and not options.dry_run:
        raise ArgumentError("`imagenet` must be given: the folder with train and val; or add --dry_run for a plan")
    for name in ("seeds", "workers", "steps", "batch_size"):
        value, least = getattr(options, name), 2 if name == "batch_size" else 1
        if value is not None and value < least:
            raise ArgumentError(f"`{name}` must be at least {least}; got {value}")
    from tracerft.cli.progress import study_progress
    from tracerft.studies import paper
    from tracerft.studies.paper_plan import plan, tables_of

    backbone, tables = options.backbone, tables_of(options.backbone, options.tables)
    numbers = {name: getattr(options, name) for name in ("seeds", "model", "steps", "batch_size")}
    world = paper.paper_world(Path(options.out), Path(options.imagenet or "IMAGENET"), backbone, **numbers)
    if options.dry_run:
        found = plan(world, backbone, tables, options.seeds, options.workers, options.images_per_second)
        _print_plan(found, backbone, options.seeds)
        return None
    with study_progress("paper tables") as progress:
        return paper.run(
            world,
            backbone,
            tables,
            only_finished=options.finished,
            workers=options.workers,
            progress=progress,
            command=command,
        )


def _print_plan(plan: Mapping[str, Any], backbone: str, seeds: int) -> None:
    """Tables, runs with what each takes, and sums."""
    from tracerft.reports.terminal import print_table

    timed = plan["hours"] is not None
    print(f"{backbone}: {plan['steps']:,} steps, {plan['pairs']:,} pairs a run; runs by table, each listed once below")
    print_table(["table", "runs"], [[table, str(len(names))] for table, names in plan["tables"].items()])
    rows = []
    for name, run in plan["runs"].items():
        takes = f"{run['hours']:.1f}" if timed else f"{run['forwards'] / 1e6:.1f}"
        rows.append([name, ", ".join(run["tables"]), f"{run['forwards'] / plan['pairs']:.2f}", takes])
    print_table(["run, one seed", "tables", "forwards\na pair", "GPU\nhours" if timed else "million\nforwards"], rows)
    for row, why in plan["left_out"].items():
        print(f"not run: {row}: {why}")
    print(f"runs: {plan['num_runs']} ({len(plan['runs'])} x {seeds} seed{'s' if seeds > 1 else ''})")
    print(f"forward passes of one image: {plan['forwards'] / 1e9:.2f} thousand million, evaluation left out")
    if timed:
        print(f"GPU hours: {plan['hours']:,.0f}, evaluation left out")
    else:
        print("GPU hours: unknown; give --images_per_second of direct finetuning")
    print(f"disk: models {plan['model_bytes'] / 1e9:.1f} GB, checkpoints {plan['checkpoint_bytes'] / 1e9:.1f} GB")
