"""Models that are only asked, for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Evaluation mode and no weight that is trained; afterwards, also after an error, all is as it was.

    Also without a graph, torch multiplies by a weight that requires gradients in another way, which rounds otherwise:
    the same weights gave other last digits as student than as a model read from a file.
    """
    modes = [model.training for model in models]
    trained = [parameter for model in models for parameter in model.parameters() if parameter.requires_grad]
    for model in models:
        model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for model, mode in zip(models, modes, strict=True):
            model.train(mode)
        for parameter in trained:
            parameter.requires_grad_(True)
