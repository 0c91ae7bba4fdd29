"""Weights over time. Owns kernels, the averaged teacher, merges of finished models, and projections to a start.

Knows no loss and no data. May import: errors.
"""

from tracerft.averaging.clock import Clock
from tracerft.averaging.fast_projection import FTP
from tracerft.averaging.kernels import (
    Kernel,
    beta_kernel,
    carot_kernel,
    exponential_kernel,
    final_pretrained_weight,
    frozen_kernel,
    swa_kernel,
    uniform_kernel,
)
from tracerft.averaging.merge import interpolate
from tracerft.averaging.model_stock import model_stock
from tracerft.averaging.projection import project, tpgm_project, tpgm_radii
from tracerft.averaging.soup import greedy_soup, uniform_soup
from tracerft.averaging.teacher import EMATeacher, FrozenTeacher, Teacher, WMATeacher
from tracerft.averaging.window import LAWA

__all__ = [
    "FTP",
    "LAWA",
    "Clock",
    "EMATeacher",
    "FrozenTeacher",
    "Kernel",
    "Teacher",
    "WMATeacher",
    "beta_kernel",
    "carot_kernel",
    "exponential_kernel",
    "final_pretrained_weight",
    "frozen_kernel",
    "greedy_soup",
    "interpolate",
    "model_stock",
    "project",
    "swa_kernel",
    "tpgm_project",
    "tpgm_radii",
    "uniform_kernel",
    "uniform_soup",
]
