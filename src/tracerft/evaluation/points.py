"""Points on the line between two models, made when they are asked, so that a sweep of large models fits in memory."""

from typing import Any, cast

from torch import nn

from tracerft.averaging import interpolate

KEPT_BYTES = 2 << 30  # of the points of a line; making one takes longer than a few dozen images do on a CPU


class Line:
    """The straight line from one model to another.

    Points are kept once made while there is room; of the others the one that was asked last is in memory.

    Args:
        start: at 0.
        end: at 1, with the same names and shapes.
    """

    def __init__(self, start: nn.Module, end: nn.Module) -> None:
        self.start, self.end = start, end
        self._room = KEPT_BYTES
        self._kept: dict[float, nn.Module] = {}
        self._last: tuple[float, nn.Module] | None = None

    def at(self, alpha: float) -> nn.Module:
        """The model (1 - alpha) start + alpha end, to be asked and not to be trained, until another point is."""
        if alpha in self._kept:
            return self._kept[alpha]
        if self._last is not None and self._last[0] == alpha:
            return self._last[1]
        self._last = None  # room for the next
        made = interpolate(self.start, self.end, alpha).eval().requires_grad_(False)
        size = sum(tensor.nbytes for tensor in made.state_dict().values())
        if size <= self._room:
            self._room -= size
            self._kept[alpha] = made
        else:
            self._last = (alpha, made)
        return made

    def point(self, alpha: float) -> nn.Module:
        """`Point` at ``alpha``, to be asked as any model is."""
        return cast(nn.Module, Point(self, alpha))


class Point:
    """A model in all that it answers; whatever is asked of it is asked of `Line.at`."""

    def __init__(self, line: Line, alpha: float) -> None:
        self._line, self._alpha = line, alpha

    def __getattr__(self, name: str) -> Any:
        return getattr(self._line.at(self._alpha), name)
