"""Towers compiled in place by torch: the names of the weights stay, and nothing falls back unsaid."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tracerft.errors import ArgumentError
from tracerft.models.lora import has_lora
from tracerft.models.modes import evaluating
from tracerft.models.probe import example_input

BACKEND = "inductor"  # torch's own; tests take others, which are quicker to start
TOLERANCE = 1e-4  # of unit-norm embeddings: another order of sums, no other function
# Modules that are called as a whole: open_clip (its CLIP has no module for the text tower but this part), tiny; hf.
TOWERS = ("visual", "text", "transformer", "model.vision_model", "model.text_model")


def compile_towers(model: nn.Module) -> None:
    """Compile both towers in place (`torch.nn.Module.compile`), after one forward pass that shows it to be the same.

    State dicts keep their names. A copy of the model is not compiled. Sizes are symbols from the start, so that a
    resumed run meets the graphs of the unbroken one; a break in a graph, or more graphs than torch allows, is an error.

    Raises:
        ArgumentError: if the model has adapters, a tower cannot be compiled as one graph or computes something else.
    """
    if has_lora(model):
        raise ArgumentError("`train.compile` must be false with lora.rank: torch cannot compile fused adapters")
    images, tokens = example_input(model)
    expected = _embedded(model, images, tokens)
    towers = list(_towers(model))
    for tower in towers:
        tower.compile(backend=BACKEND, fullgraph=True, dynamic=True)
    try:
        found = _embedded(model, images, tokens)
    except Exception as error:  # dynamo, inductor and the compiler of the machine raise many kinds
        reason = " ".join(str(error).split())[:200]
        raise _refusal(model, towers, f"torch cannot compile it ({type(error).__name__}: {reason})") from error
    gap = max(float((a - b).abs().max()) for a, b in zip(expected, found, strict=True))
    if not gap <= TOLERANCE:
        raise _refusal(model, towers, f"its embeddings change by {gap:.1e}, more than {TOLERANCE:.0e}")


def _towers(model: nn.Module) -> Iterator[nn.Module]:
    for path in TOWERS:
        try:
            yield model.get_submodule(path)
        except AttributeError:
            continue


@torch.no_grad()
def _embedded(model: nn.Module, images: Tensor, tokens: Tensor) -> list[Tensor]:
    with evaluating(model):
        return [model.encode_image(images, normalize=True), model.encode_text(tokens, normalize=True)]  # type: ignore[operator]


def _refusal(model: nn.Module, towers: list[nn.Module], why: str) -> ArgumentError:
    for tower in towers:
        tower._compiled_call_impl = None
    return ArgumentError(f"`train.compile` must be false for this {type(model).__name__}: {why}")
