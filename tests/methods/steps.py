"""A fixed batch and a plan, for a few steps of the trainer."""

from dataclasses import replace

import torch

from tests.conftest import SMALL
from tracerft.models.tiny import tokenize
from tracerft.training.plan import Plan
from tracerft.types import Batch

CAPTIONS = ("zero", "one", "two", "three", "four", "five", "six", "seven")


def random_batch(num: int = 8) -> Batch:
    """``num`` random images, each with a caption of its own."""
    images = torch.rand(num, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(num)
    return Batch(images, tokenize(CAPTIONS[:num], SMALL.context), ids, ids, ids)


class FixedBatch:
    """A source that always gives the same batch and remembers what it was asked for."""

    def __init__(self, batch: Batch, size: int | None = None) -> None:
        self.fixed, self.size, self.asked = batch, size or len(batch), []

    def __len__(self) -> int:
        return self.size

    def batch(self, sample_ids, epoch):
        """The batch, as fresh tensors."""
        self.asked.append((epoch, sample_ids))
        return replace(self.fixed, images=self.fixed.images.clone())


def plan(steps: int, **changes) -> Plan:
    """``steps`` steps on 8 pairs without checkpoints in between."""
    values = {
        "total_steps": steps,
        "batch_size": 8,
        "lr": 3e-3,
        "weight_decay": 0.1,
        "warmup_steps": 0,
        "seed": 0,
        "log_every": 1,
        "checkpoint_every": 0,
        "probe_every": 0,
        "device": torch.device("cpu"),
        "autocast": False,
        "fingerprint": {},
    }
    return Plan(**values | changes)
