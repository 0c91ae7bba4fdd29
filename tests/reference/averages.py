"""Averages of a stored trajectory, the slow way: plain loops over Definition 3.3 in float64.

Shares no code with `tracerft.averaging`; weights are built from exact rational times and a numerical
integral, tensors are summed one snapshot after the other.
"""

import functools
import math
from fractions import Fraction

import mpmath
import torch
from torch import Tensor


@functools.cache
def beta_log_weights(a: float, b: float, total_steps: int, update_every: int, weighting: str) -> dict[int, float]:
    """Log weight of every snapshot of the run, by step; the pretrained state is step 0."""
    steps = [k for k in range(total_steps + 1) if k % update_every == 0]
    if weighting == "point":
        weights = {}
        for k in steps:
            tau = Fraction(2 * k + 1, 2 * (total_steps + 1))
            weights[k] = (a - 1) * math.log(tau) + (b - 1) * math.log(1 - tau)
        return weights
    with mpmath.workdps(200):  # tails of steep kernels differ from 1 only beyond the hundredth digit
        inner = [mpmath.mpf(2 * k - update_every + 1) / (2 * (total_steps + 1)) for k in steps[1:]]
        below = [mpmath.betainc(a, b, 0, edge, regularized=True) for edge in [0, *inner, 1]]
        return {k: float(mpmath.log(below[i + 1] - below[i])) for i, k in enumerate(steps)}


def exponential_log_weights(momentum: float, total_steps: int, update_every: int, weighting: str) -> dict[int, float]:
    """alpha_0 = 1, alpha_u = (1 - rho) rho^-u for the u-th update (equation 17), rho per update."""
    rho = momentum**update_every if weighting == "mass" else momentum
    steps = [k for k in range(total_steps + 1) if k % update_every == 0]
    return {k: 0.0 if u == 0 else math.log(1 - rho) - u * math.log(rho) for u, k in enumerate(steps)}


def frozen_log_weights(total_steps: int, update_every: int, weighting: str) -> dict[int, float]:
    """All weight on step 0."""
    return {k: 0.0 if k == 0 else -math.inf for k in range(0, total_steps + 1, update_every)}


def offline_average(trajectory: list[Tensor], log_weights: dict[int, float], step: int) -> tuple[Tensor, float]:
    """Weighted mean of the snapshots up to ``step``, and the share of the first one."""
    seen = [k for k in log_weights if k <= step]
    largest = max(log_weights[k] for k in seen)
    scaled = [math.exp(log_weights[k] - largest) for k in seen]
    total = math.fsum(scaled)
    mean = torch.zeros_like(trajectory[0], dtype=torch.float64)
    for k, weight in zip(seen, scaled, strict=True):
        mean += (weight / total) * trajectory[k].double()
    return mean, scaled[0] / total
