"""LAWA: the mean of the last few snapshots of a run (Kaddour, 2022)."""

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tracerft.averaging import storage
from tracerft.averaging.clock import Clock
from tracerft.errors import ArgumentError, StateError


class LAWA:
    """Call `update` once per optimiser step, also when ``update_every > 1``.

    ``averaged`` is a separate model in eval mode without gradients: the equal mean of the last k snapshots, of fewer
    until k were taken, and the pretrained model before the first, which counts as no snapshot.

    Args:
        model: the student, in its pretrained state; it is copied.
        window: k, at least 1; so many float32 copies of the weights are kept. 1 is the last snapshot.
        update_every: f, optimiser steps between two snapshots, at least 1.

    Raises:
        ArgumentError: if a value is out of range or of the wrong kind.
    """

    def __init__(self, model: nn.Module, window: int, update_every: int = 1) -> None:
        storage.check_module(model)
        if not isinstance(window, int) or isinstance(window, bool) or window < 1:
            raise ArgumentError(f"`window` must be a whole number of at least 1; got {window!r}; 5 is usual")
        self.window, self.update_every = window, Clock(None, update_every).update_every
        self.averaged = storage.copy_in_float32(model, ()).train(False)
        self.steps = 0
        self._names = storage.Names.of(self.averaged, (), "average")
        self._snapshots: deque[dict[str, Tensor]] = deque(maxlen=window)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the student in after an optimiser step.

        Args:
            model: the student that this was built from; its device and dtype may differ.

        Raises:
            StateError: if names or shapes differ.
        """
        step = self.steps + 1
        due = step % self.update_every == 0
        if due or step == 1:  # a wrong model is reported at once, not at the first snapshot
            pairs = storage.matched(self.averaged, model, self._names)
        if due:
            snapshot = {name: pairs[name][1].to(pairs[name][0], copy=True) for name in self._names.lerped}
            self._snapshots.append(snapshot)
            storage.absorb(pairs, replace(self._names, lerped=()), 1.0)  # what is copied, not averaged
            for name in self._names.lerped:
                pairs[name][0].copy_(self._mean(name))
        self.steps = step

    def _mean(self, name: str) -> Tensor:
        """From the snapshots alone, oldest first, so a resumed run finds the same bits."""
        total = torch.zeros_like(self._snapshots[0][name])
        for snapshot in self._snapshots:
            total += snapshot[name]
        return total / len(self._snapshots)

    def state_dict(self) -> dict[str, Any]:
        """Settings, step, the average and the snapshots, oldest first by number."""
        return {
            "window": self.window,
            "update_every": self.update_every,
            "steps": self.steps,
            "averaged": self.averaged.state_dict(),
            "snapshots": {str(i): dict(snapshot) for i, snapshot in enumerate(self._snapshots)},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`.

        Raises:
            StateError: if the state is of another window, frequency or model.
        """
        for name in ("window", "update_every"):
            if state.get(name) != getattr(self, name):
                raise StateError(
                    f"saved average has {name}={state.get(name)!r} but this one has {name}={getattr(self, name)!r}; "
                    "build it with the saved settings, then load"
                )
        saved = [state["snapshots"][key] for key in sorted(state["snapshots"], key=int)]
        mine = self.averaged.state_dict(keep_vars=True)
        for snapshot in saved:
            if {n: t.shape for n, t in snapshot.items()} != {n: mine[n].shape for n in self._names.lerped}:
                raise StateError("saved snapshots are of another model; build this from the model of the saved run")
        self.averaged.load_state_dict(state["averaged"])
        self._snapshots.clear()
        for snapshot in saved:
            self._snapshots.append({name: snapshot[name].to(mine[name], copy=True) for name in self._names.lerped})
        self.steps = int(state["steps"])
