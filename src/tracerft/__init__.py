"""Robust finetuning of CLIP-style models with a weighted-moving-average teacher (TRACER).

The names below are the public API; everything else can be imported but is not promised. They are
loaded on first use, so that the command answers `--help` without loading torch.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tracerft.api import evaluate as evaluate
    from tracerft.api import finetune as finetune
    from tracerft.averaging import EMATeacher as EMATeacher
    from tracerft.averaging import FrozenTeacher as FrozenTeacher
    from tracerft.averaging import WMATeacher as WMATeacher
    from tracerft.averaging import beta_kernel as beta_kernel
    from tracerft.averaging import interpolate as interpolate
    from tracerft.data.suite import Suite as Suite
    from tracerft.evaluation.metrics import expected_calibration_error as expected_calibration_error
    from tracerft.losses import TracerLoss as TracerLoss
    from tracerft.losses import contrastive_loss as contrastive_loss
    from tracerft.methods import list_methods as list_methods
    from tracerft.models.weights import load_model as load_model
    from tracerft.models.weights import save_model as save_model
    from tracerft.types import Embeddings as Embeddings

__version__ = version("tracerft")

_HOME = {
    "EMATeacher": "averaging",
    "Embeddings": "types",
    "FrozenTeacher": "averaging",
    "Suite": "data.suite",
    "TracerLoss": "losses",
    "WMATeacher": "averaging",
    "beta_kernel": "averaging",
    "contrastive_loss": "losses",
    "evaluate": "api",
    "expected_calibration_error": "evaluation.metrics",
    "finetune": "api",
    "interpolate": "averaging",
    "list_methods": "methods",
    "load_model": "models.weights",
    "save_model": "models.weights",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tracerft' has no attribute {name!r}")
    return getattr(import_module(f"tracerft.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
