"""The loss in tiles at a size whose blocks fit nowhere: memory, and every gradient against float64.

    python benchmarks/large_loss.py [--pairs 32768] [--copies 32] [--width 512] [--out FILE]

Each of pairs / copies random pairs stands there ``copies`` times. The tiles know nothing of that; the reference counts
each column of a small float64 matrix ``copies`` times, so that it is exact and cheap for all rows.
"""

import argparse
import math
import resource
import time
from pathlib import Path

import torch
from loss import pairs
from timing import report
from torch import Tensor

from tracerft.losses import TracerLoss
from tracerft.losses.tiled import LARGE, rows_of_tile
from tracerft.types import Embeddings

WEIGHT = 0.9  # of each of the four terms of distillation


def repeated(of: Embeddings, copies: int, *, learns: bool) -> Embeddings:
    """The pairs one after the other, ``copies`` times."""
    image, text = (rows.detach().repeat(copies, 1).requires_grad_(learns) for rows in (of.image, of.text))
    return Embeddings(image, text, of.scale.detach().clone().requires_grad_(learns))


def exact(student: Embeddings, teacher: Embeddings, copies: int) -> Tensor:
    """The objective of the repeated pairs, from the distinct ones."""
    (image, text, scale), theirs = ((e.image, e.text, e.scale) for e in (student, teacher))
    total, num = image.new_zeros(()), len(image)
    for own, keys, a, b in ((image, text, theirs[0], theirs[1]), (text, image, theirs[1], theirs[0])):
        log_p, log_own, log_cross = (
            z - (z.logsumexp(1, keepdim=True) + math.log(copies))
            for z in (theirs[2] * a @ b.T, scale * own @ keys.T, scale * own @ b.T)
        )
        contrastive, icl = (-log.diagonal().mean() / 2 for log in (log_own, log_cross))
        crd, cross_kd = (copies * (log_p.exp() * (log_p - log)).sum() / num for log in (log_own, log_cross))
        fd = (own - a).square().sum() / num
        total = total + contrastive + WEIGHT * (fd + crd + icl + cross_kd / 2)
    return total


def in_float64(of: Embeddings) -> Embeddings:
    """The same numbers, as ends of a graph."""
    image, text, scale = (t.detach().double().requires_grad_() for t in (of.image, of.text, of.scale))
    return Embeddings(image, text, scale)


def largest(found: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest value."""
    return float((found.double() - expected).abs().max() / expected.abs().max())


def resident_mib() -> float:
    """The most that the process ever had in memory, whatever held it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Weigh, compare and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=32768)
    parser.add_argument("--copies", type=int, default=32)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    copies, tile = options.copies, rows_of_tile(options.pairs)
    distinct = [pairs(options.pairs // copies, options.width, seed, learns=seed == 0) for seed in (0, 1)]
    student, teacher = (repeated(e, copies, learns=number == 0) for number, e in enumerate(distinct))
    reference, other = in_float64(distinct[0]), in_float64(distinct[1])
    expected = exact(reference, other, copies)
    expected.backward()
    sides = {"tiled": TracerLoss(sd_weight=WEIGHT, tile=tile)}
    if options.pairs <= LARGE:  # what float32 itself is off by
        sides["whole blocks"] = TracerLoss(sd_weight=WEIGHT)
    taken, memory, error = dict[str, list[float]](), dict[str, float](), dict[str, dict[str, float]]()
    for name, criterion in sides.items():
        start, before = time.process_time(), resident_mib()
        total = criterion(student, teacher).total
        total.backward()
        taken[name], memory[name] = [time.process_time() - start], resident_mib() - before
        error[name] = {"total": largest(total.detach(), expected.detach())}
        error[name]["scale"] = largest(student.scale.grad, reference.scale.grad)
        for tower in ("image", "text"):
            row = getattr(reference, tower).grad / copies  # all copies of a row have the same gradient
            error[name][tower] = largest(getattr(student, tower).grad, row.repeat(copies, 1))
        student.image.grad = student.text.grad = student.scale.grad = None
    settings = {"pairs": options.pairs, "copies": copies, "width": options.width, "tile": tile}
    report("large_loss", taken, [], options.out, settings=settings, added_resident_mib=memory, relative_error=error)
    for name, found in error.items():
        print(f"{name}: {memory[name]:.1f} MiB more in memory than before; off float64, relative to the largest value:")
        print(", ".join(f"{what} {value:.1e}" for what, value in found.items()))


if __name__ == "__main__":
    main()
