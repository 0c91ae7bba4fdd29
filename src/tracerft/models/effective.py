"""The weights that a model with adapters amounts to: what a teacher is built from and reads.

Legend: W0 a frozen weight, A and B its factors, alpha / r their scale; see `tracerft.models.lora`.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from tracerft.models.lora import ADAPTER, has_lora, without_lora


def unadapted(model: nn.Module) -> nn.Module:
    """What a teacher is built from: a merged copy of a model with adapters; without adapters, the model itself.

    In the copy exactly those tensors require gradients that training changes, adapted weights among them, so
    ``trainable_only=True`` averages these and no others.
    """
    if not has_lora(model):
        return model
    trained = {_plain(name) for name, p in model.named_parameters() if p.requires_grad and ".lora_" not in name}
    trained |= set(_deltas(model))
    twin = without_lora(model)
    for name, parameter in twin.named_parameters():
        parameter.requires_grad_(name in trained)
    return twin


def effective(model: nn.Module) -> nn.Module:
    """What ``teacher.update`` reads: the model's effective weights; without adapters, the model itself.

    The average of W0 + alpha/r B A over a run is not W0 + alpha/r (average of B)(average of A); this way the teacher
    averages the former, exactly.

    Example:
        ``teacher = WMATeacher(unadapted(model), total_steps)``, then ``teacher.update(effective(model))``.
    """
    return EffectiveWeights(model) if has_lora(model) else model


class EffectiveWeights(nn.Module):
    """The tensors of a model with adapters under the names of the model without; computed when first asked for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._of = (model,)  # in a tuple, so it is no submodule

    @cached_property
    def _parameters_now(self) -> Mapping[str, Tensor]:
        return effective_state(self._of[0])

    def named_parameters(self, *_: Any, **__: Any) -> Iterator[tuple[str, Any]]:
        """Parameters without gradients, in the order of the adapted model."""
        yield from self._parameters_now.items()

    def named_buffers(self, *_: Any, **__: Any) -> Iterator[tuple[str, Tensor]]:
        """The model's own buffers."""
        yield from ((_plain(name), buffer) for name, buffer in self._of[0].named_buffers(remove_duplicate=False))


@torch.no_grad()
def effective_state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters by their names without adapters, W0 + alpha/r B A where there is one; the others not copied."""
    deltas = _deltas(model)
    state = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if ".lora_" not in name:
            plain = _plain(name)
            state[plain] = parameter.detach() + deltas[plain] if plain in deltas else parameter.detach()
    return state


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What training moves, with gradient, by its plain name: of an adapted weight what its adapters add to it."""
    plain = {name: p for name, p in model.named_parameters() if p.requires_grad and ".lora_" not in name}
    return plain | {name: delta for name, delta in _deltas(model).items() if delta.requires_grad}


def _deltas(model: nn.Module) -> dict[str, Tensor]:
    """alpha/r B A by the plain name of the weight that it is added to, with gradient."""
    found = {}
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):
            fused = isinstance(module.get_base_layer(), nn.MultiheadAttention)
            weight = _plain(f"{name}.{'in_proj_weight' if fused else 'weight'}")
            found[weight] = module.get_delta_weight(ADAPTER)
    return found


def _plain(name: str) -> str:
    return name.replace(".base_layer", "")
