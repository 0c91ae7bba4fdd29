"""Model Stock: a few finetuned models and their anchor, merged by the angle between them (Jang et al., ECCV 2024).

Legend: w_0 the anchor, w_1 ... w_k the models, d_i = w_i - w_0, c the mean cosine between two of the d_i, t the
ratio of the models' mean in the merge.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn

from tracerft.averaging.states import close_state, mean, merge_states, open_states, wide
from tracerft.errors import ArgumentError

M = TypeVar("M", bound=nn.Module)


@overload
def model_stock(anchor: nn.Module, models: Sequence[M]) -> tuple[M, dict[str, float]]: ...
@overload
def model_stock(
    anchor: Mapping[str, Any], models: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], dict[str, float]]: ...
def model_stock(anchor: Any, models: Any) -> tuple[Any, dict[str, float]]:
    """Per tensor t mean_i(w_i) + (1 - t) w_0 with t = k c / ((k - 1) c + 1); for k = 2, t = 2 c / (1 + c).

    Args:
        anchor: w_0, a module or state dict, usually the pretrained one.
        models: at least two of the same kind and architecture, finetuned from the anchor.

    Returns:
        The merge (see `uniform_soup` for dtypes and integers), and t in [0, 1] of every floating tensor by name.

    Raises:
        ArgumentError: if there are fewer than two models, or they are not of one kind.
        StateError: if names, shapes or kinds of number differ.

    Note:
        The paper defines c for two models; for more it is the mean over pairs. Where c <= 0 the formula leaves
        [0, 1] and has a pole at -1 / (k - 1): t is 0 there. A pair with a model that did not move counts as c = 0,
        so a tensor that nobody trained stays the anchor's. A tensor of one number has c of 1 or -1 only: of two
        models it gets the mean if both moved the same way, else the anchor. Floating buffers are treated alike.
    """
    if len(models) < 2:
        raise ArgumentError(f"`models` must hold at least two models; got {len(models)}; train another seed")
    opened = open_states("`anchor` and `models`", (anchor, *models))
    names = ("anchor", *(f"models[{i}]" for i in range(len(models))))
    ratios: dict[str, float] = {}

    def rule(name: str, tensors: list[Tensor]) -> Tensor:
        start, ends = wide(tensors[0]), [wide(tensor) for tensor in tensors[1:]]
        ratios[name] = _ratio(start, ends)
        middle = mean(ends)
        # where nothing moved, infinite entries (attention masks) must not turn into inf - inf
        return torch.where(middle == start, start, torch.lerp(start, middle, ratios[name]))

    merged = merge_states(dict(zip(names, opened, strict=True)), "models[0]", rule)
    return close_state(models[0], merged), ratios


def _ratio(start: Tensor, ends: list[Tensor]) -> float:
    """The ratio t in [0, 1] of one tensor, from float64 ones."""
    moves = [torch.where(end == start, torch.zeros_like(end), end - start).flatten() for end in ends]
    norms = [float(torch.linalg.vector_norm(move)) for move in moves]
    cosines = [
        float(torch.vdot(moves[i], moves[j]).real) / (norms[i] * norms[j]) if norms[i] * norms[j] > 0 else 0.0
        for i in range(len(moves))
        for j in range(i)
    ]
    c, k = sum(cosines) / len(cosines), len(moves)
    return min(1.0, k * c / ((k - 1) * c + 1)) if c > 0 else 0.0
