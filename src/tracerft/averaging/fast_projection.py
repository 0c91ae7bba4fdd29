"""FTP: projection inside training, its radii learned from the training gradient (Tian et al., NeurIPS 2023).

Legend: w_0 the anchor, c = w - w_0 after the optimiser's step and before the projection, n the L1 norm of each row
of c, g a tensor's radius, t the step, J tensors.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tracerft.averaging.projection import LEAST_RADIUS
from tracerft.errors import ArgumentError, StateError

BETAS, EPS = (0.9, 0.999), 1e-8  # of Adam on the radii
_TENSORS = ("radii", "first", "second")  # (J,) each
_BY_NAME = ("anchors", "directions")


class FTP:
    """Call `observe` after backward and before the optimiser's step, `project_` after it.

    After each step w <- w_0 + min(1, g / n) c, row by row. The radius, one a tensor, follows the gradient of the loss
    by g along the previous step's c: sum(grad * c / n), by Adam, and is clipped to [1e-8, max n]. At t = 1 there is
    no previous step and g = 1e-8, so the weights return to the anchor.

    Args:
        parameters: by name; changed in place by `project_`.
        anchors: w_0 by the same names, of the same shapes; copied.
        kappa: in [0, 1], how much of a positive gradient counts, one that asks for a smaller radius; 1 holds the
            weights most, 0 never shrinks a radius.
        lr: step size of the radii in units of a row's L1 norm, above 0.

    Raises:
        ArgumentError: if ``kappa`` or ``lr`` is out of range, or there is no parameter.
        StateError: if names or shapes differ.

    Note:
        A row is everything of one first index. A tensor of at most one dimension is a single row, as in the
        published code, where the norm over an empty list of dimensions is one over all.
    """

    def __init__(
        self, parameters: Mapping[str, Tensor], anchors: Mapping[str, Tensor], kappa: float = 1.0, lr: float = 1e-2
    ) -> None:
        if not 0 <= kappa <= 1:
            raise ArgumentError(f"`kappa` must be in [0, 1]; got {kappa!r}; 1 is published")
        if not lr > 0:
            raise ArgumentError(f"`lr` must be above 0; got {lr!r}; 0.01 is published")
        if not parameters:
            raise ArgumentError("`parameters` must hold at least one tensor; got none; pass those that train")
        _check_alike("anchors", dict(parameters), dict(anchors))
        self.kappa, self.lr, self.steps = kappa, lr, 0
        self._parameters = dict(parameters)
        self._anchors = {name: _wide(anchors[name].to(p.device, copy=True)) for name, p in self._parameters.items()}
        self._directions = {name: torch.zeros_like(anchor) for name, anchor in self._anchors.items()}
        some = next(iter(self._anchors.values()))
        self._radii = some.new_full((len(self._anchors),), LEAST_RADIUS)
        self._first, self._second = torch.zeros_like(self._radii), torch.zeros_like(self._radii)

    @property
    def radii(self) -> dict[str, float]:
        """The radius g of every tensor, at least 1e-8."""
        return dict(zip(self._anchors, self._radii.tolist(), strict=True))

    @torch.no_grad()
    def observe(self, grads: Mapping[str, Tensor]) -> None:
        """Let the radii learn.

        Args:
            grads: of the loss by parameter name, at the weights that the last `project_` left; a tensor without
                one counts as 0.

        Raises:
            ArgumentError: if a name is unknown.
        """
        for name in grads:
            if name not in self._anchors:
                raise ArgumentError(f"`grads` has {name!r}, which is no parameter of this; pass those it was built for")
        zero = self._radii.new_zeros(())
        slopes = [
            (grads[name] * direction).sum().to(zero) if name in grads else zero
            for name, direction in self._directions.items()
        ]
        slope = torch.stack(slopes)
        slope = torch.where(slope > 0, self.kappa * slope, slope)
        self.steps += 1
        self._first.lerp_(slope, 1 - BETAS[0])
        self._second.lerp_(slope.square(), 1 - BETAS[1])
        step_size = self.lr / (1 - BETAS[0] ** self.steps)
        scale = (self._second / (1 - BETAS[1] ** self.steps)).sqrt() + EPS
        self._radii -= step_size * self._first / scale

    @torch.no_grad()
    def project_(self) -> None:
        """Bring the parameters back to their radii, in place, and keep this step's directions."""
        for i, (name, parameter) in enumerate(self._parameters.items()):
            anchor, value = self._anchors[name], _wide(parameter.detach())
            move = value - anchor
            norms = row_norms(move).clamp(min=LEAST_RADIUS)
            radius = self._radii[i].clamp(min=LEAST_RADIUS).minimum(norms.max().to(self._radii))
            self._radii[i] = radius
            self._directions[name] = move / norms
            parameter.copy_(torch.lerp(anchor, value, (radius.to(norms) / norms).clamp(max=1).expand_as(move)))

    def state_dict(self) -> dict[str, Any]:
        """Steps, radii with their moments, anchors and the last directions."""
        return {
            "steps": self.steps,
            "kappa": self.kappa,
            "lr": self.lr,
            **{name: getattr(self, f"_{name}").clone() for name in _TENSORS},
            **{name: dict(getattr(self, f"_{name}")) for name in _BY_NAME},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`; the parameters themselves are restored by whoever owns them.

        Raises:
            StateError: if the state is of other parameters or settings.
        """
        for name in ("kappa", "lr"):
            if state.get(name) != getattr(self, name):
                raise StateError(
                    f"saved projection has {name}={state.get(name)!r} but this one has {name}={getattr(self, name)!r}; "
                    "build it with the saved settings, then load"
                )
        for name in _BY_NAME:
            _check_alike(f"state[{name!r}]", self._anchors, state[name])
        for name in _TENSORS:
            getattr(self, f"_{name}").copy_(state[name])
        for name in _BY_NAME:
            mine = getattr(self, f"_{name}")
            mine.update({key: state[name][key].to(mine[key], copy=True) for key in mine})
        self.steps = int(state["steps"])


def row_norms(move: Tensor) -> Tensor:
    """L1 norm of each row, broadcastable to ``move``: ``(rows, 1, ...)``, or one number for at most one dimension."""
    if move.ndim < 2:
        return move.abs().sum()
    return move.abs().flatten(1).sum(1).reshape(-1, *(1,) * (move.ndim - 1))


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


def _check_alike(argument: str, mine: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    for name in {**mine, **other}:
        shapes = [tuple(found[name].shape) if name in found else "nothing" for found in (mine, other)]
        if shapes[0] != shapes[1]:
            raise StateError(f"`{argument}` must fit the parameters; got {shapes[1]} for {name!r}, not {shapes[0]}")
