"""What the loop is told: where batches come from, how long, how fast, how often."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from tracerft.types import Batch


class Source(Protocol):
    """Where training batches come from."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def batch(self, sample_ids: NDArray[np.int64], epoch: int) -> Batch:
        """The batch of these samples in this epoch; a pure function of both."""
        ...


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long, how fast, how often.

    Args:
        total_steps: T optimiser steps, fixed at the start.
        batch_size: pairs in a batch.
        lr: peak learning rate.
        weight_decay: of AdamW.
        warmup_steps: linear warm-up.
        seed: of order and randomness.
        log_every, checkpoint_every, probe_every: steps between log lines, checkpoints and probes; 0 is
            never (the last step is always logged).
        device: where the model is.
        autocast: bf16 autocast of the forward passes.
        fingerprint: what must be the same on resume.
        compile: compile the towers of the student and of what it is compared with.
        accumulate: chunks K that a batch is embedded in, see `Passes`; the gradient is the whole batch's.
        shard: whether the ranks hold a part of every model each, see `tracerft.training.shards`.
        replicas: copies of the split models; each is split over W / replicas ranks.
    """

    total_steps: int
    batch_size: int
    lr: float
    weight_decay: float
    warmup_steps: int
    seed: int
    log_every: int
    checkpoint_every: int
    probe_every: int
    device: torch.device
    autocast: bool
    fingerprint: Mapping[str, Any]
    compile: bool = False
    accumulate: int = 1
    shard: bool = False
    replicas: int = 1
