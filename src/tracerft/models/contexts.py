"""The contexts of CAR-FT: what a prompt template means apart from the class (Mao et al. 2024, arXiv 2211.16175)."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from tracerft.errors import ArgumentError
from tracerft.models.zero_shot import zero_shot_head


def context_rows(
    model: nn.Module, tokenize: Callable[[Sequence[str]], Tensor], prompts: Sequence[Sequence[str]]
) -> Tensor:
    """One row a template: embed each prompt, normalise, average over the classes, normalise again.

    This is the dual of `zero_shot_head`, which averages over the templates of a class.

    Args:
        model: a dual encoder.
        tokenize: captions to token ids.
        prompts: of each of C classes the same K templates in the same order, filled with its name.

    Returns:
        A, ``(K, D)`` unit-norm rows, float32, without gradient.

    Raises:
        ArgumentError: if there is no prompt, or the classes have not equally many.
    """
    numbers = sorted({len(of_class) for of_class in prompts})
    if len(numbers) != 1 or numbers == [0]:
        raise ArgumentError(
            f"`prompts` must hold the same templates for every class, at least one; got {numbers or 'no'} prompts a "
            "class; fill one list of templates with each class name"
        )
    return zero_shot_head(model, tokenize, list(zip(*prompts, strict=True)))
