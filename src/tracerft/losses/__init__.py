"""Embeddings in, scalar out. Owns every loss and penalty as a pure function.

Knows no model, no data and no teacher class. May import: types, errors.
"""

from tracerft.losses.carot import cross_distillation, orthogonality
from tracerft.losses.classification import cross_entropy, logit_distillation
from tracerft.losses.contexts import context_kl
from tracerft.losses.contrastive import contrastive_loss
from tracerft.losses.distillation import (
    contrastive_relational_distillation,
    cross_kd,
    feature_distillation,
    interactive_contrastive_loss,
)
from tracerft.losses.energies import energy_gap
from tracerft.losses.features import feature_distance, image_feature_distillation
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
    "context_kl",
    "contrastive_loss",
    "contrastive_relational_distillation",
    "cross_distillation",
    "cross_entropy",
    "cross_frobenius",
    "cross_kd",
    "energy_gap",
    "feature_distance",
    "feature_distillation",
    "image_feature_distillation",
    "interactive_contrastive_loss",
    "l2_sp",
    "logit_distillation",
    "orthogonality",
    "pair_loss",
    "sigmoid_cross_kd",
    "sigmoid_interactive_loss",
    "sigmoid_loss",
    "sigmoid_relational_distillation",
]
