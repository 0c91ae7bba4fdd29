"""State dicts side by side: opened, matched by name, and merged tensor by tensor by a rule."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tracerft.errors import ArgumentError, StateError

State = Mapping[str, Any]
Rule = Callable[[str, list[Tensor]], Tensor]


def open_states(argument: str, things: Sequence[Any]) -> list[State]:
    """State dicts of modules, or the state dicts themselves.

    Args:
        argument: how an error calls them.
        things: modules, or state dicts; not both.

    Raises:
        ArgumentError: if they are not of one kind.
    """
    if all(isinstance(thing, nn.Module) for thing in things):
        return [thing.state_dict() for thing in things]
    if all(isinstance(thing, Mapping) for thing in things):
        return list(things)
    kinds = " and ".join(type(thing).__name__ for thing in things)
    raise ArgumentError(
        f"{argument} must both be modules or both be state dicts; got {kinds}; call state_dict() on the module"
        if len(things) == 2
        else f"{argument} must all be modules or all be state dicts; got {kinds}; call state_dict() on the modules"
    )


def close_state(like: Any, state: dict[str, Any]) -> Any:
    """``state`` itself if ``like`` is a state dict, else a deep copy of the module ``like`` that holds it."""
    if not isinstance(like, nn.Module):
        return state
    merged = copy.deepcopy(like)
    merged.load_state_dict(state)
    return merged


@torch.no_grad()
def merge_states(states: Mapping[str, State], template: str, rule: Rule) -> dict[str, Any]:
    """Merge the floating tensors of state dicts of one architecture by a rule.

    Args:
        states: by the name that an error calls them.
        template: key of the one that gives order, devices, integer tensors and non-tensors.
        rule: name and tensors, in the order of ``states`` and as they are, to the merged tensor of any dtype.

    Returns:
        New tensors in the widest dtype of the parents.

    Raises:
        StateError: if names, shapes or kinds of number differ.
    """
    _check_names(states, template)
    return {name: _merge_one(name, states, template, rule) for name in states[template]}


def _check_names(states: Mapping[str, State], template: str) -> None:
    for other in states:
        for holder, lacking in ((template, other), (other, template)):
            name = next((name for name in states[holder] if name not in states[lacking]), None)
            if name is not None:
                raise StateError(
                    f"`{holder}` has {name!r} but `{lacking}` does not; pass models of one architecture, unwrapped "
                    "(model.module, model._orig_mod, teacher.averaged)"
                )


def _merge_one(name: str, states: Mapping[str, State], template: str, rule: Rule) -> Any:
    mine, tensors = states[template][name], [state[name] for state in states.values()]
    if not all(torch.is_tensor(tensor) for tensor in tensors):
        return copy.deepcopy(mine)
    for holder, tensor in zip(states, tensors, strict=True):
        if tensor.shape != mine.shape or is_continuous(tensor) != is_continuous(mine):
            raise StateError(
                f"{name!r} is {tuple(tensor.shape)} {tensor.dtype} in `{holder}` but {tuple(mine.shape)} {mine.dtype} "
                f"in `{template}`; pass models of one architecture"
            )
    if not is_continuous(mine):
        return mine.clone()
    dtype = mine.dtype
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return rule(name, tensors).to(mine.device, dtype, copy=True)


def mean(tensors: Sequence[Tensor]) -> Tensor:
    """Equal mean in float64 on the CPU; entries on which all agree stay exact, infinite ones too."""
    first = wide(tensors[0])
    total, agreed = first.clone(), torch.ones_like(first, dtype=torch.bool)
    for tensor in tensors[1:]:
        other = wide(tensor)
        total += other
        agreed &= other == first
    return torch.where(agreed, first, total / len(tensors))


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float64 (or complex128) on the CPU, where every machine has it."""
    return tensor.detach().to("cpu", torch.promote_types(tensor.dtype, torch.float64))


def is_continuous(tensor: Tensor) -> bool:
    """Whether averaging makes sense: floating or complex numbers."""
    return tensor.is_floating_point() or tensor.is_complex()
