"""Models split over the ranks: each holds a part of every tensor, its gradient and its moments (FSDP2, `fully_shard`).

A model falls into units: each block of a list of blocks, and the rest. A unit is gathered before it runs, forward and
backward, and let go after; its gradient is summed over the ranks, each of which keeps its own part. What works number
by number (AdamW, a teacher's average) then works on the parts, and sends nothing. With several replicas the ranks fall
into as many groups of neighbours, each of which holds everything; gradients are summed over the groups too (HSDP).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tracerft.distributed import World
from tracerft.errors import ArgumentError
from tracerft.methods import Method
from tracerft.models.head import class_head
from tracerft.split import is_split, local
from tracerft.training.plan import Plan


def shard(model: nn.Module, method: Method, plan: Plan, world: World) -> None:
    """Split a student and all that its method keeps beside it, in place; they must not be copied from here on.

    Args:
        model: the student.
        method: started, with ``copies``.
        plan: its batch must give every rank as many rows as it takes chunks, since ranks pass units around in step;
            its replicas must divide the ranks into groups of two or more.
        world: at least two ranks.

    Raises:
        ArgumentError: if the batch has too few rows, or the ranks do not fall into such groups.
    """
    least = world.size * plan.accumulate
    if plan.batch_size < least:
        raise ArgumentError(
            f"`train.batch_size` must be at least {least} with train.shard, a row for each of {world.size} ranks x "
            f"{plan.accumulate} chunks (train.accumulate); got {plan.batch_size}"
        )
    if world.size % plan.replicas or world.size == plan.replicas:
        raise ArgumentError(
            f"`train.replicas` must divide the {world.size} ranks into groups of two or more; got {plan.replicas}"
        )
    from torch.distributed.device_mesh import init_device_mesh

    names = ("replicate", "shard") if plan.replicas > 1 else ("shard",)
    sizes = (plan.replicas, world.size // plan.replicas)[-len(names) :]
    mesh = init_device_mesh(plan.device.type, sizes, mesh_dim_names=names)
    copies: Mapping[str, nn.Module] = getattr(method, "copies", dict)()
    for each in (model, *copies.values()):
        _split(each, mesh)


def _split(model: nn.Module, mesh: Any) -> None:
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    outside = _outside(model)
    for unit in (*_blocks(model), model):
        # The root too: it would stay gathered after a pass without backward, and an update would find other shapes.
        split = fully_shard(unit, mesh=mesh, reshard_after_forward=True, ignored_params=outside)
        split.set_gradient_divide_factor(1.0)  # a sum; torch takes the mean
        split.set_force_sum_reduction_for_comms(True)  # by a plain sum, since gloo has no scaled one
    for name in ("encode_image", "encode_text"):
        register_fsdp_forward_method(model, name)  # torch knows of `forward` alone


def _outside(model: nn.Module) -> set[nn.Parameter]:
    """What the loss reads outside the towers, and single numbers, which torch does not split: whole on every rank."""
    head = class_head(model)
    found = {p for p in model.parameters() if p.ndim == 0} | set(() if head is None else head.parameters())
    named = (getattr(model, name, None) for name in ("logit_scale", "logit_bias"))
    return found | {value for value in named if isinstance(value, nn.Parameter)}


def _blocks(model: nn.Module) -> list[nn.Module]:
    """Members of lists of blocks, inner ones first, that own all their tensors: a tied one belongs to the rest."""
    owners = Counter(id(p) for p in _every(model))
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    members = dict.fromkeys(member for blocks in lists for member in blocks)
    found = []
    for member in members:
        mine = Counter(id(p) for p in _every(member))
        if mine and not isinstance(member, (nn.ModuleList, nn.ModuleDict)) and mine.items() <= owners.items():
            found.append(member)
    return found[::-1]


def _every(module: nn.Module) -> Iterable[nn.Parameter]:
    return (p for _, p in module.named_parameters(remove_duplicate=False))


def gradient_norm(model: nn.Module, world: World, replicas: int = 1) -> Tensor:
    """Euclidean norm over all parameters, the same on every rank; not finite if any part is not.

    Args:
        model: with gradients, split or not.
        world: its ranks.
        replicas: how many copies of the split parts they hold together.
    """
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    alike = torch.nn.utils.get_total_norm([g for g in gradients if not is_split(g)])
    parts = [local(g) for g in gradients if is_split(g)]
    if not parts:
        return alike
    squared = torch.nn.utils.get_total_norm(parts).double().square() / replicas
    return torch.sqrt(world.sum_(squared) + alike.double().square())
