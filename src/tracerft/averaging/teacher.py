"""The averaged model: a kernel's weights applied to a student's tensors, step by step (Definition 3.3).

Legend: T optimiser steps, f ``update_every``, theta_0 the pretrained state, omega a snapshot's share.
"""

import math
import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn

from tracerft.averaging import storage
from tracerft.averaging.clock import Clock
from tracerft.averaging.kernels import (
    ARCSINE,
    FrozenKernel,
    Kernel,
    exponential_kernel,
    final_pretrained_weight,
    frozen_kernel,
    timing_advice,
)
from tracerft.errors import ArgumentError, StateError, TeacherClockError, one_of


class Teacher(nn.Module):
    """Call `update` once per optimiser step, also when ``update_every > 1``.

    After step t the tensors are W_t = (1 - omega_t) W_{t-1} + omega_t theta_t, with W_0 = theta_0: a convex
    average of the student's trajectory in which the pretrained state keeps its share. The teacher is a
    separate model in eval mode without gradients; calling it, `encode_image` and `encode_text` run it.

    Args:
        model: the student, in its pretrained state; it is copied.
        total_steps: T, optimiser steps of the run; ``None`` only for kernels that need no end.
        kernel: the rule of weights.
        update_every: f, optimiser steps between two updates.
        weighting: ``"point"`` or ``"mass"``; see `Clock`.
        trainable_only: average only parameters that require gradients now. Frozen ones are the student's own
            tensors (a float32 copy where those have 16 bits) and are left out of ``state_dict``.
        buffers: ``"average"`` treats floating buffers (BatchNorm statistics) like parameters, ``"copy"`` takes the
            student's latest at each update. Integer, non-persistent and non-finite buffers are always copied.

    Raises:
        ArgumentError: if a value is out of range or of the wrong kind.

    Warns:
        UserWarning: if point weighting leaves theta_0 more than 5 %, or no update will ever happen.

    Note:
        Algorithm 1 starts the sum of weights at step 1, which erases theta_0 (omega_1 = 1); Definition 3.3 starts
        at 0 and is followed. Tensors are kept in float32 or wider whatever the student uses.
    """

    def __init__(
        self,
        model: nn.Module,
        total_steps: int | None,
        kernel: Kernel,
        update_every: int = 1,
        weighting: str = "point",
        *,
        trainable_only: bool = False,
        buffers: str = "average",
    ) -> None:
        super().__init__()
        storage.check_module(model)
        if not isinstance(kernel, Kernel):
            raise ArgumentError(f"`kernel` must be a kernel; got {kernel!r}; pass one such as beta_kernel(0.5, 0.5)")
        self.kernel = kernel
        self.clock = Clock(total_steps, update_every, weighting)
        one_of("buffers", buffers, ("average", "copy"))
        self.buffer_policy, self.trainable_only = buffers, trainable_only
        frozen = storage.frozen_names(model) if trainable_only else ()
        self._steps = 0
        self._log_first = self._log_total = kernel.advance(0, self.clock, -math.inf)[1]
        self.averaged = storage.copy_in_float32(model, frozen)
        self._names = storage.Names.of(self.averaged, frozen, buffers)
        storage.leave_frozen_out(self)
        self.train(False)
        if advice := timing_advice(kernel, self.clock):
            warnings.warn(advice, UserWarning, stacklevel=3)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the student in after an optimiser step.

        Args:
            model: the student that the teacher was built from; its device and dtype may differ.

        Raises:
            TeacherClockError: on more than ``total_steps`` calls.
            StateError: if names or shapes differ, or a shared frozen parameter has begun to train.
        """
        step, total = self._steps + 1, self.clock.total_steps
        if total is not None and step > total:
            raise TeacherClockError(
                f"update() called {step} times but total_steps={total}; pass total_steps=epochs * len(loader)"
            )
        due = step % self.clock.update_every == 0
        if due or step == 1:  # a wrong model is reported at once, not at the first update
            pairs = storage.matched(self.averaged, model, self._names)
        if due:
            omega, self._log_total = self.kernel.advance(step, self.clock, self._log_total)
            if not isinstance(self.kernel, FrozenKernel):
                storage.absorb(pairs, self._names, omega)
        self._steps = step

    @property
    def steps(self) -> int:
        """Optimiser steps seen, in [0, T]."""
        return self._steps

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of the parameters that are not averaged (``trainable_only``)."""
        return self._names.frozen

    @property
    def pretrained_weight(self) -> float:
        """Share in [0, 1] that theta_0 has in the averaged tensors now; 1 before the first update."""
        return math.exp(self._log_first - self._log_total)

    @cached_property
    def final_pretrained_weight(self) -> float:
        """Share in [0, 1] that theta_0 will have after ``total_steps``."""
        return final_pretrained_weight(self.kernel, self.clock)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the averaged model without gradients; 16-bit inputs are widened to its dtype."""
        return self._run("forward", args, kwargs)

    def encode_image(self, *args: Any, **kwargs: Any) -> Any:
        """Run the averaged model's ``encode_image`` without gradients."""
        return self._run("encode_image", args, kwargs)

    def encode_text(self, *args: Any, **kwargs: Any) -> Any:
        """Run the averaged model's ``encode_text`` without gradients."""
        return self._run("encode_text", args, kwargs)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode whatever ``mode`` says."""
        return super().train(False)

    def get_extra_state(self) -> dict[str, Any]:
        """Everything but tensors, as values that JSON can hold; ``None`` stands for an infinite logarithm."""
        log_share = self._log_first - self._log_total
        return self._settings() | {
            "step": self._steps,
            "log_total": self._log_total if math.isfinite(self._log_total) else None,
            "log_pretrained_weight": log_share if math.isfinite(log_share) else None,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore `get_extra_state`.

        Raises:
            StateError: if the state is of another kernel, length, frequency, weighting or policy.
        """
        for name, mine in self._settings().items():
            if state.get(name) != mine:
                raise StateError(
                    f"saved teacher has {name}={state.get(name)!r} but this one has {name}={mine!r}; "
                    "build the teacher with the saved settings, then load"
                )
        self._steps = int(state["step"])
        self._log_total = math.inf if state["log_total"] is None else float(state["log_total"])

    def _settings(self) -> dict[str, Any]:
        return {
            "kernel": self.kernel.describe(),
            "total_steps": self.clock.total_steps,
            "update_every": self.clock.update_every,
            "weighting": self.clock.weighting,
            "buffers": self.buffer_policy,
            "trainable_only": self.trainable_only,
        }

    def _run(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = self.averaged if method == "forward" else getattr(self.averaged, method, None)
        if call is None:
            raise ArgumentError(
                f"`{method}` is not offered by {type(self.averaged).__name__}; wrap the model in a DualEncoder, "
                "or call the teacher itself"
            )
        self.averaged.train(False)
        dtype = next((p.dtype for p in self.averaged.parameters() if p.is_floating_point()), torch.float32)
        with torch.no_grad():
            return call(
                *(storage.widen(a, dtype) for a in args), **{k: storage.widen(v, dtype) for k, v in kwargs.items()}
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        storage.refuse_narrow(fn)
        storage.unshare(self.averaged, self.frozen, fn)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


class WMATeacher(Teacher):
    """The paper's teacher: every snapshot of the run weighted by a kernel on normalised time.

    See `Teacher` for arguments and errors; call `update` once per optimiser step.
    """

    def __init__(
        self,
        model: nn.Module,
        total_steps: int,
        kernel: Kernel = ARCSINE,
        update_every: int = 1,
        weighting: str = "point",
        *,
        trainable_only: bool = False,
        buffers: str = "average",
    ) -> None:
        super().__init__(
            model, total_steps, kernel, update_every, weighting, trainable_only=trainable_only, buffers=buffers
        )


class EMATeacher(Teacher):
    """An exponential moving average, theta_0 included; ``momentum`` in [0, 1]. See `Teacher` for the rest."""

    def __init__(
        self,
        model: nn.Module,
        momentum: float = 0.999,
        *,
        total_steps: int | None = None,
        update_every: int = 1,
        weighting: str = "point",
        trainable_only: bool = False,
        buffers: str = "average",
    ) -> None:
        kernel = exponential_kernel(momentum)
        super().__init__(
            model, total_steps, kernel, update_every, weighting, trainable_only=trainable_only, buffers=buffers
        )


class FrozenTeacher(Teacher):
    """The pretrained model itself, for static self-distillation; `update` only counts steps."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, None, frozen_kernel())
