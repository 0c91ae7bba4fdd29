"""One update of the averaged model, beside torch's AveragedModel, a loop over parameters, and a plain copy.

python benchmarks/teacher.py [--parameters 20000000] [--rounds 15] [--out FILE]
"""

import argparse
from pathlib import Path

import torch
from timing import interleaved, report
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tracerft.averaging import WMATeacher

WIDTH = 512


def model(parameters: int) -> nn.Module:
    """Square layers with biases, as many as make this size."""
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(max(1, parameters // WIDTH**2))))


@torch.no_grad()
def copied(into: nn.Module, source: nn.Module) -> None:
    """The least that an update has to move."""
    for mine, theirs in zip(into.parameters(), source.parameters(), strict=True):
        mine.copy_(theirs)


@torch.no_grad()
def looped(into: nn.Module, source: nn.Module) -> None:
    """How training scripts often write it: new tensors for both products and the sum."""
    for mine, theirs in zip(into.parameters(), source.parameters(), strict=True):
        mine.data = 0.999 * mine.data + 0.001 * theirs.data


def main() -> None:
    """Time and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parameters", type=int, default=20_000_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    student, target, plain = (model(options.parameters) for _ in range(3))
    teacher = WMATeacher(student, total_steps=10**6)
    theirs = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    theirs.update_parameters(student)  # its first update copies
    sides = {
        "WMATeacher.update": lambda: teacher.update(student),
        "AveragedModel": lambda: theirs.update_parameters(student),
        "loop": lambda: looped(plain, student),
        "copy": lambda: copied(target, student),
    }
    taken = interleaved(sides, options.rounds)
    compared = [(name, "copy") for name in sides if name != "copy"]
    size = sum(p.numel() for p in student.parameters())
    report("teacher", taken, compared, options.out, settings={"parameters": size})


if __name__ == "__main__":
    main()
