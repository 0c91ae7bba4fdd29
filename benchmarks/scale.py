"""What a step and a checkpoint of TRACER take on many GPUs: arithmetic from sizes, and from rates that are assumed.

Nothing is run or timed. Sizes are those that tests count in runs of two and four ranks; the rates stand for a machine
that nobody had here, so put your own in. Megabytes and gigabytes are powers of ten.

Legend: W ranks of b pairs each, N = W b; D embedding size; P trained parameters; R references; 4 bytes a number.

python benchmarks/scale.py [--ranks 8 128 1000] [--pairs 64] [--towers 4e14] [--loss 3e13] [--network 5e10]
    [--disk 1e9] [--image 115000] [--out FILE]
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tracerft.losses.tiled import LARGE
from tracerft.studies.paper_plan import BACKBONES, BYTES
from tracerft.training.checkpoint import KEEP

WIDTHS = {"ViT-B/16": 512, "ViT-L/14": 768}
INPUT = Path(__file__).parents[1] / "docs" / "results" / "benchmarks" / "input.json"
FORWARDS = 4  # of the towers in a step: the student's, its backward for two, the teacher's
PRODUCTS = 12  # of (N, N, D) in the loss: three blocks and three derivatives a direction
COPIES = 6  # of P numbers: weights, gradients, two moments, the teacher, the start
SAVED = 4  # of P numbers: weights, two moments, the teacher


def numbers_sent(
    pairs: int, width: int, trained: int, *, references: int = 1, classes: bool = True, large: bool = False
) -> dict[str, int]:
    """Numbers that a step gathers and sums over the ranks, whatever their number; three single ones are left out.

    Args:
        pairs: N, of the whole batch.
        width: D.
        trained: P.
        references: R, models embedded beside the student.
        classes: whether samples have class numbers, beside their own and their captions'.
        large: whether the loss is shared out, so that its derivatives, five terms and the scale's are summed too.
    """
    return {
        "gathered": 2 * pairs * width * (1 + references),
        "numbers gathered": (3 if classes else 2) * pairs,
        "summed": trained + (2 * pairs * width + 6 if large else 0),
    }


def loss_operations(pairs: int, width: int) -> int:
    """Multiplications and additions in the products of all five terms in tiles; of a large batch over all ranks."""
    return PRODUCTS * 2 * pairs * pairs * width


def loss_bytes(pairs: int, width: int) -> int:
    """What the loss in tiles holds of N rows: embeddings of student and teacher, and the student's gradients twice."""
    return (4 + 4) * pairs * width * BYTES


def checkpoint_bytes(trained: int) -> int:
    """Of one checkpoint, without names and single numbers."""
    return SAVED * BYTES * trained


def ring(sent: float, ranks: int) -> float:
    """What a sum over a ring moves out of each rank, and into it."""
    return 2 * (ranks - 1) / ranks * sent


def row(model: str, ranks: int, pairs: int, rates: Mapping[str, float]) -> dict[str, Any]:
    """One model on W ranks of b pairs."""
    backbone, width, num = BACKBONES[model], WIDTHS[model], ranks * pairs
    trained = backbone.image + backbone.text
    large = num > LARGE  # then the ranks share out the loss
    sent = numbers_sent(num, width, trained, large=large)
    whole = loss_operations(num, width)
    operations = whole / ranks if large else whole
    gathered, summed = BYTES * sent["gathered"] + 8 * sent["numbers gathered"], BYTES * sent["summed"]
    towers = FORWARDS * sum(backbone.gflops) * 1e9 * pairs
    seconds = {
        "towers": towers / rates["towers"],
        "loss": operations / rates["loss"],
        "gathered": (ranks - 1) / ranks * gathered / rates["network"],
        "summed": ring(summed, ranks) / rates["network"],
    }
    images = num / sum(seconds.values())
    return {
        "model": model,
        "ranks": ranks,
        "pairs": num,
        "gathered_bytes": gathered,
        "summed_bytes": summed,
        "model_bytes": (COPIES + 1) * BYTES * trained,
        "loss_bytes": loss_bytes(num, width),
        "tower_operations": towers,
        "whole_loss_operations": whole,
        "loss_operations": operations,
        "whole_loss_seconds": whole / rates["loss"],
        "seconds": seconds,
        "images_per_second": images,
        "read_bytes_per_second": images * rates["image"],
        "cores_per_rank": images / ranks * rates["decode"],
        "checkpoint_bytes": checkpoint_bytes(trained),
        "checkpoint_seconds": checkpoint_bytes(trained) / rates["disk"],
        "checkpoint_room": (KEEP + 1) * checkpoint_bytes(trained),
    }


def crossing(model: str) -> float:
    """N W from which on the whole loss takes more operations than the towers of a rank: 4 F N / W = 24 N N D."""
    return FORWARDS * sum(BACKBONES[model].gflops) * 1e9 / (2 * PRODUCTS * WIDTHS[model])


def computed(ranks: Sequence[int], pairs: int, rates: Mapping[str, float]) -> dict[str, Any]:
    """All rows, and what does not depend on the machine."""
    return {
        "benchmark": "scale",
        "rates": dict(rates),
        "pairs_per_rank": pairs,
        "rows": [row(model, size, pairs, rates) for model in WIDTHS for size in ranks],
        "crossing": {model: crossing(model) for model in WIDTHS},
    }


def tables(found: Mapping[str, Any]) -> dict[str, str]:
    """The tables of docs/scale.md by name."""
    rows = found["rows"]
    return {
        "sizes": _table(
            "Model | GPUs | N | gathered, MB | summed, MB | weights and the like, GB | of N rows in the loss, MB",
            [
                [
                    *_head(r),
                    _short(r["gathered_bytes"] / 1e6),
                    _short(r["summed_bytes"] / 1e6),
                    _short(r["model_bytes"] / 1e9),
                    _short(r["loss_bytes"] / 1e6),
                ]
                for r in rows
            ],
        ),
        "seconds": _table(
            "Model | GPUs | N | whole loss / towers | share / towers | whole loss, s | towers, s | share, s"
            " | network, s | images/s | GB/s | cores",
            [
                [
                    *_head(r),
                    _short(r["whole_loss_operations"] / r["tower_operations"]),
                    _short(r["loss_operations"] / r["tower_operations"]),
                    _short(r["whole_loss_seconds"]),
                    *(_short(r["seconds"][name]) for name in ("towers", "loss")),
                    _short(r["seconds"]["gathered"] + r["seconds"]["summed"]),
                    _short(r["images_per_second"]),
                    _short(r["read_bytes_per_second"] / 1e9),
                    _short(r["cores_per_rank"]),
                ]
                for r in rows
            ],
        ),
        "disk": _table(
            "Model | checkpoint, GB | at the disk's rate, s | room for three, GB",
            [
                [
                    r["model"],
                    _short(r["checkpoint_bytes"] / 1e9),
                    _short(r["checkpoint_seconds"]),
                    _short(r["checkpoint_room"] / 1e9),
                ]
                for r in rows
                if r["ranks"] == rows[0]["ranks"]
            ],
        ),
    }


def _head(r: Mapping[str, Any]) -> list[str]:
    return [r["model"], f"{r['ranks']:,}", f"{r['pairs']:,}"]


def _short(value: float) -> str:
    """Two digits, more where it is a hundred or above."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def _table(head: str, rows: Sequence[Sequence[str]]) -> str:
    lines = [head.split(" | "), ["---"] * head.count(" | ") + ["---"], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Compute, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 128, 1000])
    parser.add_argument("--pairs", type=int, default=64, help="of a rank")
    parser.add_argument("--towers", type=float, default=4e14, help="operations/s of the towers, bf16")
    parser.add_argument("--loss", type=float, default=3e13, help="operations/s of the loss, float32")
    parser.add_argument("--network", type=float, default=5e10, help="bytes/s in and out of a rank")
    parser.add_argument("--disk", type=float, default=1e9, help="bytes/s")
    parser.add_argument("--image", type=float, default=115_000, help="bytes of an encoded image")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    measured = json.loads(INPUT.read_text())
    rates = {name: getattr(options, name) for name in ("towers", "loss", "network", "disk", "image")}
    rates["decode"] = measured["seconds"]["train"] / measured["settings"]["images"]  # seconds of a core, an image
    found = computed(options.ranks, options.pairs, rates)
    for table in tables(found).values():
        print(table, end="\n\n")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
