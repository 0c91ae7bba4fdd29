"""Merges of finished models in weight space: linear interpolation (WiSE-FT)."""

import math
from collections.abc import Mapping
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn

from tracerft.averaging.states import close_state, merge_states, open_states
from tracerft.errors import ArgumentError

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
    one, other = open_states("`a` and `b`", (a, b))

    def between(_: str, ends: list[Tensor]) -> Tensor:
        return _lerp(ends[0], ends[1], float(alpha))

    return close_state(b, merge_states({"a": one, "b": other}, "b", between))


def _lerp(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    wide = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    start, end = a.to(b.device, wide), b.to(wide)
    if alpha in (0, 1):
        return end if alpha else start
    # equal entries stay exact, and infinite ones (attention masks) do not turn into inf - inf
    return torch.where(start == end, end, torch.lerp(start, end, alpha))
