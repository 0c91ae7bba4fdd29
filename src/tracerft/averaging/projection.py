"""TPGM: every tensor of a finetuned model projected to a learned distance from its anchor (Tian et al., CVPR 2023).

Legend: w_0 the anchor's tensor, w the finetuned one, n = ||w - w_0||_2 over the whole tensor, g its radius.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tracerft.averaging.states import is_continuous, merge_states
from tracerft.errors import ArgumentError, NonFiniteError, StateError

M = TypeVar("M", bound=nn.Module)
Radius = float | Tensor

LEAST_RADIUS = 1e-8  # of the published code; 0 would have no way back


def project_tensor(anchor: Tensor, value: Tensor, radius: Radius) -> Tensor:
    """w_0 + min(1, g / n) (w - w_0), differentiable in the radius.

    Args:
        anchor: w_0, of any shape, float32 or wider.
        value: w, like ``anchor``.
        radius: g >= 0, a number or scalar; from n on the result is ``value``, at 0 it is ``anchor``, to the bit.
    """
    norm = torch.linalg.vector_norm((value - anchor).detach())
    bound = torch.as_tensor(radius, dtype=norm.dtype, device=norm.device)
    share = torch.where(norm > 0, bound / norm.clamp(min=torch.finfo(norm.dtype).tiny), torch.ones_like(norm))
    return torch.lerp(anchor, value, share.clamp(max=1).to(value.dtype))


def project(anchor: Mapping[str, Any], state: Mapping[str, Any], radii: Mapping[str, Radius]) -> dict[str, Any]:
    """Project the tensors of a state dict that have a radius; the others stay.

    Args:
        anchor: state dict of the pretrained model.
        state: that of the finetuned one.
        radii: g by name, >= 0.

    Returns:
        New tensors, see `interpolate` for dtypes and integers. The arithmetic is float32 or wider.

    Raises:
        ArgumentError: if a radius is negative or NaN.
        StateError: if names, shapes or kinds of number differ, or a radius has no floating tensor of its name.
    """
    _check_radii(radii, {name: value for name, value in state.items() if torch.is_tensor(value)})

    def rule(name: str, tensors: list[Tensor]) -> Tensor:
        start, end = tensors[0].to(tensors[1].device), tensors[1]
        return _projected(start, end, radii[name]) if name in radii else end

    return merge_states({"anchor": anchor, "state": state}, "state", rule)


@torch.no_grad()
def tpgm_project(anchor: nn.Module, model: M, radii: Mapping[str, Radius]) -> M:
    """A deep copy of ``model`` whose parameters with a radius are projected; see `project` for errors.

    A tied tensor takes the radius of the name under which ``named_parameters`` gives it.
    """
    merged = copy.deepcopy(model)
    parameters = dict(merged.named_parameters())
    _check_radii(radii, parameters)
    starts = _starts(anchor, model)
    for name, radius in radii.items():
        end = parameters[name]
        end.copy_(_projected(starts[name].to(end.device), end, radius))
    return merged


def tpgm_radii(
    anchor: nn.Module, model: nn.Module, loss: Callable[[nn.Module], Tensor], steps: int = 200, lr: float = 1e-2
) -> dict[str, float]:
    """Learn a radius for every parameter that moved, with the weights fixed: the loss of the projected model falls.

    Radii begin at n / 2; after every step of Adam they are clipped to [1e-8, n]. The weights of neither model change.

    Args:
        anchor: the pretrained model.
        model: the finetuned one.
        loss: of a model that looks like ``model`` (in eval mode, its parameters not leaves) on held-out data; called
            once a step, so it may take another batch each time.
        steps: of Adam, at least 1; 200 is published.
        lr: step size in units of weight distance, above 0; 0.01 is published.

    Returns:
        g by name, in [1e-8, n]; parameters that did not move have none.

    Raises:
        ArgumentError: if ``steps`` or ``lr`` is out of range, or no parameter moved.
        StateError: if names or shapes differ.
        NonFiniteError: if the loss is not finite.
    """
    if not isinstance(steps, int) or steps < 1:
        raise ArgumentError(f"`steps` must be a whole number of at least 1; got {steps!r}; 200 is published")
    if not lr > 0:
        raise ArgumentError(f"`lr` must be above 0; got {lr!r}; 0.01 is published")
    starts, twin = _starts(anchor, model), copy.deepcopy(model).eval().requires_grad_(False)
    ends = {name: end for name, end in twin.named_parameters() if is_continuous(end)}
    distances = {name: _distance(starts[name].to(end.device), end) for name, end in ends.items()}
    moved = [name for name, distance in distances.items() if distance > 0]
    if not moved:
        raise ArgumentError("`model` must differ from `anchor`; got equal weights; pass the finetuned model")
    radii = {n: torch.tensor(distances[n] / 2, device=ends[n].device, requires_grad=True) for n in moved}
    probe, optimizer = _Probe(twin, loss), torch.optim.Adam(radii.values(), lr=lr)
    for step in range(steps):
        projected = {f"model.{n}": _projected(starts[n].to(ends[n].device), ends[n], radii[n]) for n in moved}
        value = functional_call(probe, projected, ())
        if not bool(torch.isfinite(value)):
            raise NonFiniteError(
                f"`loss` is {float(value.detach())} at step {step + 1} of the radii; check data and weights"
            )
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        with torch.no_grad():
            for name, radius in radii.items():
                radius.clamp_(LEAST_RADIUS, max(LEAST_RADIUS, distances[name]))
    return {name: float(radius.detach()) for name, radius in radii.items()}


class _Probe(nn.Module):
    """Lets ``functional_call`` put tensors into the model while any function of it runs."""

    def __init__(self, model: nn.Module, loss: Callable[[nn.Module], Tensor]) -> None:
        super().__init__()
        self.model, self._loss = model, loss

    def forward(self) -> Tensor:
        return self._loss(self.model)


def _projected(start: Tensor, end: Tensor, radius: Radius) -> Tensor:
    """`project_tensor` in float32 or wider, in the dtype of ``end``."""
    dtype = torch.promote_types(torch.promote_types(start.dtype, end.dtype), torch.float32)
    return project_tensor(start.to(dtype), end.to(dtype), radius).to(end.dtype)


def _distance(start: Tensor, end: Tensor) -> float:
    dtype = torch.promote_types(torch.promote_types(start.dtype, end.dtype), torch.float32)
    return float(torch.linalg.vector_norm(end.detach().to(dtype) - start.to(dtype)))


def _starts(anchor: nn.Module, model: nn.Module) -> dict[str, Tensor]:
    """The anchor's parameters by the names of ``model``, without gradient."""
    starts = {name: start.detach() for name, start in anchor.named_parameters()}
    for name, end in model.named_parameters():
        if name not in starts or starts[name].shape != end.shape:
            found = tuple(starts[name].shape) if name in starts else "nothing"
            raise StateError(
                f"`model` has {name!r} of shape {tuple(end.shape)} but `anchor` has {found}; "
                "pass two models of one architecture, unwrapped"
            )
    return starts


def _check_radii(radii: Mapping[str, Radius], tensors: Mapping[str, Tensor]) -> None:
    for name, radius in radii.items():
        if name not in tensors or not is_continuous(tensors[name]):
            raise StateError(f"`radii` has {name!r}, which is no floating tensor of the model; use its own names")
        size = float(radius.detach()) if isinstance(radius, Tensor) else float(radius)
        if not size >= 0:
            raise ArgumentError(f"`radii` must be at least 0; got {size} for {name!r}; 0 gives the anchor")
