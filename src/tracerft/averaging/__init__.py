"""Weights over time. Owns kernels, the averaged teacher, and merges of finished models.

Knows no loss and no data. May import: errors.
"""

from tracerft.averaging.clock import Clock
from tracerft.averaging.kernels import (
    Kernel,
    beta_kernel,
    exponential_kernel,
    final_pretrained_weight,
    frozen_kernel,
    uniform_kernel,
)
from tracerft.averaging.merge import interpolate
from tracerft.averaging.teacher import EMATeacher, FrozenTeacher, Teacher, WMATeacher

__all__ = [
    "Clock",
    "EMATeacher",
    "FrozenTeacher",
    "Kernel",
    "Teacher",
    "WMATeacher",
    "beta_kernel",
    "exponential_kernel",
    "final_pretrained_weight",
    "frozen_kernel",
    "interpolate",
    "uniform_kernel",
]
