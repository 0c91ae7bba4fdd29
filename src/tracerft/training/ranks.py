"""One batch over several ranks: what the objective sees of the whole, one gradient for all, and one set of options.

With one rank every function here hands back what it got.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import nn

from tracerft.distributed import World, gather_rows
from tracerft.errors import StateError
from tracerft.split import is_split
from tracerft.types import Batch

PIXELS = ("images", "tokens")  # of a row; what models read stays on the row's rank


def whole_batch(batch: Batch, rank: int, sizes: Sequence[int]) -> Batch:
    """The batch of all ranks as an objective sees it: ids and labels; images and tokens have a shape and no content.

    Args:
        batch: this rank's rows; ones beyond its size are left out.
        rank: this one.
        sizes: rows of each rank.
    """
    if len(sizes) < 2:
        return batch
    total, found = sum(sizes), {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if field.name in PIXELS:
            found[field.name] = torch.empty(total, *value.shape[1:], dtype=value.dtype, device="meta")
        elif value is not None:
            found[field.name] = gather_rows(value[: sizes[rank]], sizes)
    return replace(batch, **found)


def sum_gradients(model: nn.Module, world: World) -> None:
    """Add up the parameters' gradients over all ranks; afterwards each rank has the same bits.

    Those that are split over ranks were added up by the backward pass, see `tracerft.training.shards`.

    One call a type of number. A parameter without a gradient on every rank stays without, as the optimiser leaves such
    a one alone: zeros would let it decay.
    """
    if world.size == 1:
        return
    trained = [p for p in model.parameters() if p.requires_grad and not is_split(p)]
    used = world.sum_(torch.tensor([int(p.grad is not None) for p in trained])).tolist()
    present = [p for p, count in zip(trained, used, strict=True) if count]
    for dtype in dict.fromkeys(p.dtype for p in present):
        some = [p for p in present if p.dtype == dtype]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in some])
        world.sum_(flat)
        for parameter, gradient in zip(some, torch.split(flat, [p.numel() for p in some]), strict=True):
            parameter.grad = gradient.view_as(parameter)


def refuse_differences(world: World, mine: Mapping[str, Any]) -> None:
    """Check that all ranks were told the same and found the same.

    Args:
        world: the ranks.
        mine: plain values by name.

    Raises:
        StateError: on every rank, the same line, which names the first rank that differs and in what.
    """
    first, *others = world.everywhere(dict(mine))
    for rank, other in enumerate(others, start=1):
        differing = [
            f"{key}: {first.get(key)!r} on rank 0, {other.get(key)!r} on rank {rank}"
            for key in sorted({*first, *other})
            if first.get(key) != other.get(key)
        ]
        if differing:
            raise StateError(
                f"rank {rank} differs from rank 0 in {len(differing)} thing(s): {'; '.join(differing)}; start "
                "all ranks with the same options, files and run folder"
            )
