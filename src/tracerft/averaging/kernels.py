"""How much each student snapshot weighs in the average (Definition 3.3). Numbers only, no torch.

Legend: T optimiser steps, k a step, f ``update_every``, tau normalised time in (0, 1), kappa a kernel on it,
alpha_k the weight of the snapshot at step k, omega_k its share of the weights up to k. Snapshots are taken
at k = 0 (the pretrained state), f, 2f, ...; weights live in log space, so that steep kernels such as
Beta(80, 80) lose no snapshot to underflow.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import ClassVar

from scipy.special import betainc, betaln

from tracerft.averaging.clock import Clock
from tracerft.errors import ArgumentError

_LARGEST_SHAPE = 1e6  # beyond this the log weights of neighbouring steps are lost to float64 rounding
_LARGE_SHARE = 0.05  # of the pretrained state at the end; more is worth a warning
_LEAST_MASS = 1e-290  # smaller differences of distribution functions are close to subnormal numbers
_LEAST_RELATIVE_MASS = 1e-9  # smaller ones have lost most of their digits to cancellation


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class Kernel(ABC):
    """A rule for the share omega_k that the snapshot at step k takes in the average."""

    name: ClassVar[str]
    needs_total_steps: ClassVar[bool]

    @abstractmethod
    def advance(self, step: int, clock: Clock, log_total: float) -> tuple[float, float]:
        """Let the snapshot at ``step`` enter the average.

        Args:
            step: k, a multiple of ``clock.update_every`` in [0, T]; 0 is the pretrained state.
            clock: the time axis.
            log_total: log of the summed weights of all earlier snapshots; ``-inf`` at step 0.

        Returns:
            omega in [0, 1], and the log of the summed weights with this snapshot. A fall of the share of
            everything older is the difference of two such logs: log(1 - omega) = old - new.
        """

    def describe(self) -> dict[str, str | float]:
        """Name and parameters as plain values, for saved state and records."""
        return {"name": self.name, **asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True)
class BetaKernel(Kernel):
    """The Beta(a, b) density on normalised time; see `beta_kernel`."""

    a: float
    b: float
    name: ClassVar[str] = "beta"
    needs_total_steps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for argument in ("a", "b"):
            value = getattr(self, argument)
            if not _is_number(value) or not 0 < value <= _LARGEST_SHAPE:
                raise ArgumentError(
                    f"`{argument}` must be a number in (0, {_LARGEST_SHAPE:g}]; got {value!r}; "
                    "the paper's kernel is beta_kernel(0.5, 0.5)"
                )
            object.__setattr__(self, argument, float(value))

    def advance(self, step: int, clock: Clock, log_total: float) -> tuple[float, float]:
        """See `Kernel.advance`: omega_k = alpha_k / (alpha_0 + ... + alpha_k)."""
        log_weight = self.log_weight(step, clock)
        new = _log_sum(log_total, log_weight)
        return math.exp(log_weight - new), new

    def log_weight(self, step: int, clock: Clock) -> float:
        """Log of alpha_k: the log density at tau_k, or the log mass of the snapshot's stretch of time."""
        return self._log_mass(step, clock) if clock.weighting == "mass" else self._log_density(step, clock)

    def _log_density(self, step: int, clock: Clock) -> float:
        tau, rest = clock.position(step)
        return (self.a - 1) * math.log(tau) + (self.b - 1) * math.log(rest) - float(betaln(self.a, self.b))

    def _log_mass(self, step: int, clock: Clock) -> float:
        (low, low_rest), (high, high_rest) = clock.cell(step)
        start, end = float(betainc(self.a, self.b, low)), float(betainc(self.a, self.b, high))
        if start > 0.5:  # beyond the median both are near 1: subtract the upper tails instead
            start, end = float(betainc(self.b, self.a, high_rest)), float(betainc(self.b, self.a, low_rest))
        mass = end - start
        if mass > max(_LEAST_MASS, _LEAST_RELATIVE_MASS * end):
            return math.log(mass)
        return self._log_density(step, clock) + math.log(high - low)


@dataclass(frozen=True)
class ExponentialKernel(Kernel):
    """Exponential moving average; see `exponential_kernel`."""

    momentum: float
    name: ClassVar[str] = "exponential"
    needs_total_steps: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not _is_number(self.momentum) or not 0 <= self.momentum <= 1:
            raise ArgumentError(f"`momentum` must be a number in [0, 1]; got {self.momentum!r}; 0.999 is usual")
        object.__setattr__(self, "momentum", float(self.momentum))

    def advance(self, step: int, clock: Clock, log_total: float) -> tuple[float, float]:
        """See `Kernel.advance`; constant omega, so the weights rho^-t themselves never appear."""
        if step == 0:
            return 1.0, 0.0
        if self.momentum == 0:
            return 1.0, math.inf
        power = clock.update_every if clock.weighting == "mass" else 1
        log_kept = power * math.log(self.momentum)
        omega = 1 - self.momentum if power == 1 else -math.expm1(log_kept)
        return omega, log_total - log_kept


@dataclass(frozen=True)
class FrozenKernel(Kernel):
    """All weight on the pretrained state; see `frozen_kernel`."""

    name: ClassVar[str] = "frozen"
    needs_total_steps: ClassVar[bool] = False

    def advance(self, step: int, clock: Clock, log_total: float) -> tuple[float, float]:
        """See `Kernel.advance`: nothing after step 0 gets weight."""
        return (1.0, 0.0) if step == 0 else (0.0, log_total)


def beta_kernel(a: float, b: float) -> BetaKernel:
    """Weigh snapshots by the Beta(a, b) density of normalised time (Definition 3.3).

    Args:
        a: in (0, 1e6]; below 1 puts weight on the start, the pretrained state included.
        b: in (0, 1e6]; below 1 puts weight on the end.

    Raises:
        ArgumentError: if a parameter is outside its range, infinite or NaN.

    Example:
        >>> beta_kernel(0.5, 0.5).describe()
        {'name': 'beta', 'a': 0.5, 'b': 0.5}
    """
    return BetaKernel(a, b)


def uniform_kernel() -> BetaKernel:
    """Beta(1, 1): the running mean of all snapshots, as in Polyak averaging and SWA."""
    return BetaKernel(1.0, 1.0)


def exponential_kernel(momentum: float) -> ExponentialKernel:
    """Exponential moving average: omega = 1 - momentum at every update (equation 17 in closed form).

    With weighting ``"mass"`` and f = ``update_every``, omega = 1 - momentum^f: the same forgetting per
    optimiser step whatever f is.

    Args:
        momentum: in [0, 1]; 1 never moves, 0 keeps the latest snapshot only.

    Raises:
        ArgumentError: if ``momentum`` is outside its range or NaN.
    """
    return ExponentialKernel(momentum)


def frozen_kernel() -> FrozenKernel:
    """The teacher stays the pretrained model, omega = 0 (static self-distillation)."""
    return FrozenKernel()


def final_pretrained_weight(kernel: Kernel, clock: Clock) -> float:
    """Share in [0, 1] that the pretrained state has in the average after T steps; needs no model.

    Args:
        kernel: the rule of weights.
        clock: the time axis; without ``total_steps`` the answer is the limit of a run without end.

    Raises:
        ArgumentError: if the kernel needs ``total_steps`` and the clock has none.
    """
    log_first = log_total = kernel.advance(0, clock, -math.inf)[1]
    if clock.total_steps is None:
        return 1.0 if kernel.advance(clock.update_every, clock, log_first)[0] == 0 else 0.0
    for step in range(clock.update_every, clock.total_steps + 1, clock.update_every):
        _, log_total = kernel.advance(step, clock, log_total)
    return math.exp(log_first - log_total)


def _log_sum(x: float, y: float) -> float:
    """log(exp(x) + exp(y)); at least one is finite."""
    high, low = max(x, y), min(x, y)
    return high + math.log1p(math.exp(low - high))


def timing_advice(kernel: Kernel, clock: Clock) -> str | None:
    """One line for a user whose teacher will hardly or never move because of ``update_every``; else ``None``."""
    every, total = clock.update_every, clock.total_steps
    if isinstance(kernel, FrozenKernel) or every == 1:
        return None
    if total is not None and every > total:
        return f"`update_every`={every} exceeds total_steps={total}, so the teacher never moves; lower it"
    if clock.weighting == "point":
        share = final_pretrained_weight(kernel, clock)
        mass = final_pretrained_weight(kernel, Clock(total, every, "mass"))
        if share > _LARGE_SHARE and mass < share:
            return (
                f"with `update_every`={every} and weighting='point' the pretrained state keeps {share:.1%} of the "
                f"final average; weighting='mass' leaves it {mass:.1%}"
            )
    return None


ARCSINE = beta_kernel(0.5, 0.5)  # the paper's default
