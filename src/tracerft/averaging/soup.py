"""Model soups: means of finished models that share their start (Wortsman et al., ICML 2022)."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, overload

from torch import nn

from tracerft.averaging.states import close_state, mean, merge_states, open_states
from tracerft.errors import ArgumentError

M = TypeVar("M", bound=nn.Module)


@overload
def uniform_soup(models: Sequence[M]) -> M: ...
@overload
def uniform_soup(models: Sequence[Mapping[str, Any]]) -> dict[str, Any]: ...
def uniform_soup(models: Any) -> Any:
    """Equal mean of n models, tensor by tensor.

    Args:
        models: at least one; modules, or state dicts, of one architecture.

    Returns:
        A deep copy of the first module with the merged weights in its dtypes, or a new state dict in the widest
        dtype. Integer tensors and non-tensors come from the first. The arithmetic is float64.

    Raises:
        ArgumentError: if there is no model, or they are not of one kind.
        StateError: if names, shapes or kinds of number differ.

    Example:
        >>> import torch
        >>> uniform_soup([{"w": torch.tensor([0.0])}, {"w": torch.tensor([4.0])}])
        {'w': tensor([2.])}
    """
    if len(models) == 0:
        raise ArgumentError("`models` must hold at least one model; got none; pass the finetuned models")
    states = {f"models[{i}]": state for i, state in enumerate(open_states("`models`", models))}
    return close_state(models[0], merge_states(states, "models[0]", lambda _, tensors: mean(tensors)))


def greedy_soup(
    models: Sequence[M], score: Callable[[nn.Module], float], ties: bool = True
) -> tuple[M, tuple[int, ...]]:
    """Mean of the models that do not lower the score, tried from best to worst.

    Args:
        models: at least one module, of one architecture.
        score: higher is better, such as accuracy on held-out images; called at most 2 n - 1 times. A model whose
            score is NaN is never kept.
        ties: whether an equal score is enough to be kept, as in the paper; the published code wants a higher one.

    Returns:
        The soup, and the positions in ``models`` of those kept, best first.

    Raises:
        ArgumentError: if there is no module, or no score is a number.
        StateError: if names, shapes or kinds of number differ.
    """
    if not len(models) or not all(isinstance(model, nn.Module) for model in models):
        raise ArgumentError("`models` must hold at least one model, all modules; got other; pass the finetuned models")
    scores = [float(score(model)) for model in models]
    order = sorted((i for i, value in enumerate(scores) if not math.isnan(value)), key=lambda i: -scores[i])
    if not order:
        raise ArgumentError("`score` must give a number for some model; got NaN for all; check the models' weights")
    kept, best = [order[0]], scores[order[0]]
    soup = uniform_soup([models[order[0]]])
    for i in order[1:]:
        tried = uniform_soup([models[j] for j in (*kept, i)])
        value = float(score(tried))
        if value > best or (ties and value == best):
            soup, best = tried, value
            kept.append(i)
    return soup, tuple(kept)
