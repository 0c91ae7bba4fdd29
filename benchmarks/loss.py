"""The five terms: in tiles, with shared blocks, as five separate functions; and open_clip's loss, one term of them.

python benchmarks/loss.py [--pairs 1024] [--width 512] [--rounds 5] [--out FILE]
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import open_clip
import torch
from memory import peak_mib
from timing import interleaved, report
from torch import Tensor
from torch.nn.functional import normalize

from tracerft.losses import (
    TracerLoss,
    contrastive_loss,
    contrastive_relational_distillation,
    cross_kd,
    feature_distillation,
    interactive_contrastive_loss,
)
from tracerft.losses.tiled import rows_of_tile
from tracerft.types import Embeddings

Side = Callable[[], None]


def pairs(num: int, width: int, seed: int, *, learns: bool) -> Embeddings:
    """Random unit-norm embeddings at CLIP's largest scale."""
    generator = torch.Generator().manual_seed(seed)
    image, text = (normalize(torch.randn(num, width, generator=generator), dim=1) for _ in range(2))
    if learns:
        image, text = image.requires_grad_(), text.requires_grad_()
    return Embeddings(image, text, torch.tensor(100.0, requires_grad=learns))


def five_functions(student: Embeddings, teacher: Embeddings) -> Tensor:
    """Each term builds its own blocks."""
    terms = (feature_distillation, contrastive_relational_distillation, interactive_contrastive_loss, cross_kd)
    return contrastive_loss(student) + 0.9 * sum(term(student, teacher) for term in terms)


def sides(num: int, width: int) -> dict[str, Side]:
    """Forward and backward of each."""
    student, teacher = pairs(num, width, 0, learns=True), pairs(num, width, 1, learns=False)
    tiled, shared, theirs = TracerLoss(tile=rows_of_tile(num)), TracerLoss(), open_clip.ClipLoss()

    def call(loss: Callable[[], Tensor]) -> Side:
        def run() -> None:
            loss().backward()
            student.image.grad = student.text.grad = student.scale.grad = None

        return run

    return {
        "tiled": call(lambda: tiled(student, teacher).total),
        "shared blocks": call(lambda: shared(student, teacher).total),
        "five functions": call(lambda: five_functions(student, teacher)),
        "open_clip.ClipLoss": call(lambda: theirs(student.image, student.text, student.scale)),
    }


def main() -> None:
    """Time, weigh, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=1024)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    calls = sides(options.pairs, options.width)
    memory = {name: peak_mib(call) for name, call in calls.items()}
    taken = interleaved(calls, options.rounds)
    compared = [("tiled", "shared blocks"), ("tiled", "five functions"), ("shared blocks", "five functions")]
    settings = {"pairs": options.pairs, "width": options.width}
    report("loss", taken, compared, options.out, settings=settings, peak_mib=memory)
    for name, size in memory.items():
        print(f"{name:24s} {size:10.1f} MiB of tensors at the peak")


if __name__ == "__main__":
    main()
