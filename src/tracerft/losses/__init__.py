"""Embeddings in, scalar out. Owns every loss and penalty as a pure function.

Knows no model, no data and no teacher class. May import: types, errors.
"""

from tracerft.losses.contrastive import contrastive_loss
from tracerft.losses.distillation import (
    contrastive_relational_distillation,
    cross_kd,
    feature_distillation,
    interactive_contrastive_loss,
)
from tracerft.losses.penalties import cross_frobenius, l2_sp
from tracerft.losses.sigmoid import (
    pair_loss,
    sigmoid_cross_kd,
    sigmoid_interactive_loss,
    sigmoid_loss,
    sigmoid_relational_distillation,
)
from tracerft.losses.tracer import TracerLoss

__all__ = [
    "TracerLoss",
    "contrastive_loss",
    "contrastive_relational_distillation",
    "cross_frobenius",
    "cross_kd",
    "feature_distillation",
    "interactive_contrastive_loss",
    "l2_sp",
    "pair_loss",
    "sigmoid_cross_kd",
    "sigmoid_interactive_loss",
    "sigmoid_loss",
    "sigmoid_relational_distillation",
]
