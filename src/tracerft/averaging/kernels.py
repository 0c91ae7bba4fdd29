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

_CAROT_FIRST, _CAROT_LAST, _CAROT_RISE = 0.05, 0.9, 0.2  # momentum at first and at last, share of the run between
_ROUNDING = 1e-9  # 0.55 * 100 is a little more than 55


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


@dataclass(frozen=True)
class CaRotKernel(Kernel):
    """A moving average with rising momentum; see `carot_kernel`."""

    name: ClassVar[str] = "carot"
    needs_total_steps: ClassVar[bool] = True

    def advance(self, step: int, clock: Clock, log_total: float) -> tuple[float, float]:
        """See `Kernel.advance`: omega_k = 1 - m(k)."""
        momentum = self.momentum(step, clock)
        return (1.0, 0.0) if step == 0 else (1 - momentum, log_total - math.log(momentum))

    def momentum(self, step: int, clock: Clock) -> float:
        """m(k) in [0.05, 0.9]."""
        rise = _CAROT_RISE * _length(clock)
        if step >= rise:
            return _CAROT_LAST
        return _CAROT_FIRST + (_CAROT_LAST - _CAROT_FIRST) * step / rise


@dataclass(frozen=True)
class SWAKernel(Kernel):
    """The equal mean of the last part of the run; see `swa_kernel`."""

    start: float
    name: ClassVar[str] = "swa"
    needs_total_steps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not _is_number(self.start) or not 0 <= self.start <= 1:
            raise ArgumentError(f"`start` must be a number in [0, 1]; got {self.start!r}; 0.75 is usual")
        object.__setattr__(self, "start", float(self.start))

    def advance(self, step: int, clock: Clock, log_total: float) -> tuple[float, float]:
        """See `Kernel.advance`: omega_k = 1 / n for the n-th snapshot of the mean, 1 before it begins."""
        begin = max(1, math.ceil(self.start * _length(clock) - _ROUNDING))
        if step == 0:
            return 1.0, 0.0
        taken = step // clock.update_every - (begin - 1) // clock.update_every
        # the first omega of 1 removes theta_0 for good: its log share is -inf from then on
        return 1 / max(1, taken), math.inf


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


def carot_kernel() -> CaRotKernel:
    """CaRot's moving average: momentum m(k) = 0.05 + 0.85 k / (0.2 T) while k < 0.2 T, then 0.9.

    The published code updates every 500 of 25,030 steps (Oh et al., NeurIPS 2024).

    Note:
        The published code also updates after its first step, whose learning rate is 2e-8, and counts from 0, so that
        its snapshot for m(k) is one step younger. Here k steps have been made, and theta_0 is the start. The
        clock's weighting has no effect: the schedule belongs to updates, not to steps.
    """
    return CaRotKernel()


def swa_kernel(start: float = 0.75) -> SWAKernel:
    """The equal mean of the snapshots from step ``start * T`` on (stochastic weight averaging, Izmailov et al., 2018).

    Before that the average is the latest snapshot, so a run whose last part has no snapshot ends with the last one
    before it. The pretrained state gets no weight, whatever ``start``. The clock's weighting has no effect.

    Args:
        start: in [0, 1], share of the run after which the mean begins.

    Raises:
        ArgumentError: if ``start`` is outside its range or NaN.

    Note:
        Statistics of BatchNorm are averaged like weights, not measured anew.
    """
    return SWAKernel(start)


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


def _length(clock: Clock) -> int:
    """T of a clock that knows it."""
    clock.position(0)  # raises where the end is unknown
    return int(clock.total_steps or 0)


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
