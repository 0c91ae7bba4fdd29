"""AdamW and the schedule, as a pure function of the step."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tracerft.errors import StateError
from tracerft.split import is_split, part_of


def learning_rate(step: int, *, total_steps: int, peak: float, warmup_steps: int) -> float:
    """Linear warm-up, then a half cosine to 0; set before step ``step`` (from 0).

    Args:
        step: optimiser steps already taken.
        total_steps: T.
        peak: highest value.
        warmup_steps: steps until the peak.

    Returns:
        ``peak (step + 1) / warmup`` below ``warmup``, then ``peak/2 (1 + cos(pi (step - warmup)/(T - warmup)))``.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return 0.5 * peak * (1.0 + math.cos(math.pi * (step - warmup_steps) / max(1, total_steps - warmup_steps)))


def adamw(model: nn.Module, *, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW with one rule for all that trains: decay also acts on gains, biases and the logit scale.

    This is the recipe of the paper and its forerunners (WiSE-FT, FLYP); open_clip's own trainer leaves
    gains and biases out.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    # torch takes no list in which some are split over ranks and some are not
    groups = [[p for p in parameters if is_split(p) == split] for split in (False, True)]
    fused = parameters[0].device.type != "mps"
    return torch.optim.AdamW([{"params": g} for g in groups if g], lr=lr, weight_decay=weight_decay, fused=fused)


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Moments and step counts by parameter name: ``<parameter>::<exp_avg | exp_avg_sq | step>``."""
    tensors = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{name}::{key}"] = value
    return tensors


def load_optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave.

    Raises:
        StateError: if a name belongs to no trained parameter.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for full, value in tensors.items():
        name, _, key = full.rpartition("::")
        if name not in parameters:
            raise StateError(
                f"the checkpoint's optimiser has {name!r}, which does not train here; resume the run as it was"
            )
        parameter = parameters[name]  # a count of steps has another shape and is whole everywhere
        mine = part_of(value, parameter) if value.shape == parameter.shape else value
        optimizer.state[parameter][key] = mine.to(parameter.device)
