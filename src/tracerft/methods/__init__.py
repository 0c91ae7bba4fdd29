"""Finetuning methods, and the METHODS table that the command and the documentation are printed from.

Owns what a method optimises. May import: averaging, losses, models, types, errors.
"""

from tracerft.methods import (
    arf,
    averages,
    car_ft,
    carot,
    classifier,
    contrastive,
    ftp,
    ldifs,
    lipsum_ft,
    probe,
    sd_feat,
    sd_logit,
    self_distillation,
    weight_space,
)
from tracerft.methods.base import Ingredients, Method, MethodInfo
from tracerft.methods.classifier import CrossEntropy
from tracerft.methods.contrastive import Contrastive
from tracerft.methods.finetuning import frozen_copy

__all__ = [
    "METHODS",
    "Contrastive",
    "CrossEntropy",
    "Ingredients",
    "Method",
    "MethodInfo",
    "frozen_copy",
    "list_methods",
]

_FILES = (
    classifier,
    probe,
    sd_logit,
    car_ft,
    lipsum_ft,
    ldifs,
    contrastive,
    sd_feat,
    carot,
    arf,
    self_distillation,
    averages,
    ftp,
    weight_space,
)
_FAMILIES = ("cross-entropy", "contrastive", "weight space")
_ROWS = sorted((row for file in _FILES for row in file.ROWS), key=lambda row: _FAMILIES.index(row.family))

METHODS: dict[str, MethodInfo] = {row.name: row for row in _ROWS}


def list_methods() -> list[dict[str, str | int]]:
    """Name, family, paper, year, summary, cost and extra data of every method, in the table's order."""
    keys = ("name", "family", "paper", "year", "summary", "cost", "extra_data")
    return [{key: getattr(info, key) for key in keys} for info in METHODS.values()]
