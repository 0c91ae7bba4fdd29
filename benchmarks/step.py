"""One optimiser step: TRACER and direct finetuning here, and the direct step as it is run with open_clip.

    python benchmarks/step.py [--compile] [--pairs 32] [--width 256] [--layers 4] [--rounds 7] [--out FILE]

Images are 112 x 112 in patches of 16; captions have 10 tokens of 77 in the mean, and open_clip computes all 77.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from timing import interleaved, report
from torch import Tensor, nn

from tracerft.averaging import WMATeacher
from tracerft.losses import TracerLoss
from tracerft.methods import Method
from tracerft.methods.contrastive import Contrastive
from tracerft.methods.self_distillation import SelfDistillation
from tracerft.models.open_clip import accept_short_text
from tracerft.training.trainer import Plan, Trainer
from tracerft.types import Batch

CONTEXT, VOCABULARY, END, SIZE = 77, 49408, 49407, 112


def model(width: int, layers: int) -> nn.Module:
    """A small CLIP of open_clip with random weights."""
    vision = {"image_size": SIZE, "layers": layers, "width": width, "patch_size": 16, "head_width": 64}
    text = {"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": width, "heads": width // 64, "layers": layers}
    torch.manual_seed(0)
    return open_clip.CLIP(embed_dim=width, vision_cfg=vision, text_cfg=text)


def batch(num: int) -> Batch:
    """Random images, and captions of 6 to 14 tokens with their ends, padded with zeros."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.zeros(num, CONTEXT, dtype=torch.int64)
    for row, length in zip(tokens, torch.randint(6, 15, (num,), generator=generator).tolist(), strict=True):
        row[: length - 1] = torch.randint(1, END, (length - 1,), generator=generator)
        row[length - 1] = END
    ids = torch.arange(num)
    return Batch(torch.randn(num, 3, SIZE, SIZE, generator=generator), tokens, None, ids, ids)


class Same:
    """A source with one batch, so that decoding is no part of the step."""

    def __init__(self, fixed: Batch) -> None:
        self.fixed = fixed

    def __len__(self) -> int:
        return len(self.fixed)

    def batch(self, sample_ids: NDArray[np.int64], epoch: int) -> Batch:
        """It."""
        return self.fixed


def ours(
    method: Method, student: nn.Module, fixed: Batch, device: torch.device, folder: Path, *, compiled: bool = False
) -> Callable[[], object]:
    """The trainer's step, checks and teacher included."""
    plan = Plan(
        total_steps=10**6,
        batch_size=len(fixed),
        lr=1e-5,
        weight_decay=0.1,
        warmup_steps=500,
        seed=0,
        log_every=10,
        checkpoint_every=0,
        probe_every=0,
        device=device,
        autocast=False,
        fingerprint={},
        compile=compiled,
    )
    return Trainer(accept_short_text(student).to(device).train(), method, Same(fixed), plan, folder)._one_step


def theirs(student: nn.Module, fixed: Batch, device: torch.device) -> Callable[[], object]:
    """The direct step around open_clip's own forward and loss, all 77 tokens of each caption."""
    student.to(device).train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, weight_decay=0.1)
    loss = open_clip.ClipLoss()

    def step() -> Tensor:
        images, tokens = fixed.images.to(device), fixed.tokens.to(device)
        value = loss(*student(images, tokens))
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            student.logit_scale.clamp_(0, 4.6052)
        return value

    return step


def main() -> None:
    """Time and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compile", action="store_true", help="also with compiled towers (train.compile)")
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fixed = batch(options.pairs)

    def made() -> nn.Module:
        return model(options.width, options.layers)

    def tracer() -> Method:
        return SelfDistillation("tracer", loss=TracerLoss(), teacher=lambda m, steps: WMATeacher(m, total_steps=steps))

    with tempfile.TemporaryDirectory() as folder:
        sides = {
            "tracer": ours(tracer(), made(), fixed, device, Path(folder)),
            "direct": ours(Contrastive("flyp"), made(), fixed, device, Path(folder)),
            "open_clip direct": theirs(made(), fixed, device),
        }
        compared = [("tracer", "direct"), ("tracer", "open_clip direct"), ("direct", "open_clip direct")]
        if options.compile:
            methods = {"tracer": tracer(), "direct": Contrastive("flyp")}
            for name, method in methods.items():
                sides[f"{name} compiled"] = ours(method, made(), fixed, device, Path(folder), compiled=True)
                compared.append((f"{name} compiled", name))
        taken = interleaved(sides, options.rounds)
    settings = {name: getattr(options, name) for name in ("pairs", "width", "layers")}
    size = sum(p.numel() for p in made().parameters())
    report("step", taken, compared, options.out, settings={**settings, "image": SIZE, "parameters": size})


if __name__ == "__main__":
    main()
