"""Merges of finished models in weight space: linear interpolation (WiSE-FT)."""

import copy
import math
from collections.abc import Mapping
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn

from tracerft.errors import ArgumentError, StateError

M = TypeVar("M", bound=nn.Module)


@overload
def interpolate(a: nn.Module, b: M, alpha: float) -> M: ...
@overload
def interpolate(a: Mapping[str, Any], b: Mapping[str, Any], alpha: float) -> dict[str, Any]: ...
def interpolate(a: Any, b: Any, alpha: float) -> Any:
    """Weights (1 - alpha) a + alpha b, tensor by tensor.

    Args:
        a: a module or state dict, often the pretrained one; the result at ``alpha`` 0.
        b: the same kind with the same names and shapes, often the finetuned one; the result at ``alpha`` 1.
        alpha: in [0, 1]; both ends are exact to the bit.

    Returns:
        For modules a deep copy of ``b`` with merged weights in the dtypes of ``b``. For state dicts new tensors on
        the devices of ``b``, in the wider of the two dtypes. Integer tensors and non-tensors come from ``b``.
        The arithmetic is float32 or wider.

    Raises:
        ArgumentError: if ``alpha`` is outside its range, or ``a`` and ``b`` are not of one kind.
        StateError: if names, shapes or kinds of number differ.

    Example:
        >>> interpolate({"w": torch.tensor([0.0])}, {"w": torch.tensor([4.0])}, 0.25)
        {'w': tensor([1.])}
    """
    is_number = isinstance(alpha, (int, float)) and not isinstance(alpha, bool)
    if not is_number or math.isnan(alpha) or not 0 <= alpha <= 1:
        raise ArgumentError(f"`alpha` must be a number in [0, 1]; got {alpha!r}; 0 gives `a`, 1 gives `b`")
    if isinstance(a, nn.Module) and isinstance(b, nn.Module):
        merged = copy.deepcopy(b)
        merged.load_state_dict(_merge(a.state_dict(), b.state_dict(), alpha))
        return merged
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return _merge(a, b, alpha)
    raise ArgumentError(
        f"`a` and `b` must both be modules or both be state dicts; got {type(a).__name__} and {type(b).__name__}; "
        "call state_dict() on the module"
    )


@torch.no_grad()
def _merge(a: Mapping[str, Any], b: Mapping[str, Any], alpha: float) -> dict[str, Any]:
    for one, other, holder, lacking in ((b, a, "b", "a"), (a, b, "a", "b")):
        name = next((name for name in one if name not in other), None)
        if name is not None:
            raise StateError(
                f"`{holder}` has {name!r} but `{lacking}` does not; pass two models of one architecture, unwrapped "
                "(model.module, model._orig_mod, teacher.averaged)"
            )
    return {name: _merge_one(name, a[name], b[name], alpha) for name in b}


def _merge_one(name: str, a: Any, b: Any, alpha: float) -> Any:
    if not torch.is_tensor(b) or not torch.is_tensor(a):
        return copy.deepcopy(b)
    if a.shape != b.shape or _is_continuous(a) != _is_continuous(b):
        raise StateError(
            f"{name!r} is {tuple(a.shape)} {a.dtype} in `a` but {tuple(b.shape)} {b.dtype} in `b`; "
            "pass two models of one architecture"
        )
    if not _is_continuous(b):
        return b.clone()
    dtype = torch.promote_types(a.dtype, b.dtype)
    wide = torch.promote_types(dtype, torch.float32)
    start, end = a.to(b.device, wide), b.to(wide)
    if alpha in (0, 1):
        return (end if alpha else start).to(dtype, copy=True)
    # equal entries stay exact, and infinite ones (attention masks) do not turn into inf - inf
    return torch.where(start == end, end, torch.lerp(start, end, float(alpha))).to(dtype)


def _is_continuous(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()
