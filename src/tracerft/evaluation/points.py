"""Points on the line between two models, made when they are asked: a sweep then holds three models, not one a point."""

from typing import Any, cast

from torch import nn

from tracerft.averaging import interpolate


class Line:
    """The straight line from one model to another; only the point that was asked last is in memory.

    Args:
        start: at 0.
        end: at 1, with the same names and shapes.
    """

    def __init__(self, start: nn.Module, end: nn.Module) -> None:
        self.start, self.end = start, end
        self._made: tuple[float, nn.Module] | None = None

    def at(self, alpha: float) -> nn.Module:
        """The model (1 - alpha) start + alpha end, to be asked and not to be trained, until another point is."""
        if self._made is None or self._made[0] != alpha:
            self._made = None  # room for the next
            self._made = (alpha, interpolate(self.start, self.end, alpha).eval().requires_grad_(False))
        return self._made[1]

    def point(self, alpha: float) -> nn.Module:
        """`Point` at ``alpha``, to be asked as any model is."""
        return cast(nn.Module, Point(self, alpha))


class Point:
    """A model in all that it answers; whatever is asked of it is asked of `Line.at`."""

    def __init__(self, line: Line, alpha: float) -> None:
        self._line, self._alpha = line, alpha

    def __getattr__(self, name: str) -> Any:
        return getattr(self._line.at(self._alpha), name)
