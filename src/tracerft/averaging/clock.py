"""The time axis of an average: optimiser steps, snapshots, and the stretch of time each one stands for.

Legend: T optimiser steps, k a step, f ``update_every``, tau normalised time in (0, 1) (Definition 3.3).
"""

import operator
from dataclasses import dataclass

from tracerft.errors import ArgumentError, one_of

WEIGHTINGS = ("point", "mass")


@dataclass(frozen=True)
class Clock:
    """The time axis that a kernel is read on.

    Args:
        total_steps: T, optimiser steps of the whole run, at least 1; ``None`` for a run without a known end.
        update_every: f, optimiser steps between two snapshots, at least 1.
        weighting: ``"point"`` weighs a snapshot by the kernel at its own time; ``"mass"`` by the kernel's
            mass over the stretch of time for which the snapshot stands.

    Raises:
        ArgumentError: if a value is out of range or of the wrong kind.
    """

    total_steps: int | None
    update_every: int = 1
    weighting: str = "point"

    def __post_init__(self) -> None:
        if self.total_steps is not None:
            cure = "pass total_steps=epochs * len(loader)"
            object.__setattr__(self, "total_steps", _count("total_steps", self.total_steps, cure))
        every = _count("update_every", self.update_every, "1 updates after every optimiser step")
        object.__setattr__(self, "update_every", every)
        one_of("weighting", self.weighting, WEIGHTINGS)

    def position(self, step: int) -> tuple[float, float]:
        """``(tau, 1 - tau)`` of a step, tau = (k + 0.5) / (T + 1); both in (0, 1) and free of cancellation."""
        total = self._known_total()
        return (step + 0.5) / (total + 1), (total - step + 0.5) / (total + 1)

    def cell(self, step: int) -> tuple[tuple[float, float], tuple[float, float]]:
        """The stretch of normalised time for which the snapshot at ``step`` stands.

        Stretches meet half-way between snapshots; the first begins at 0, the last ends at 1.

        Returns:
            ``(x, 1 - x)`` of the lower edge and of the upper edge.
        """
        total, half = self._known_total(), self.update_every / 2
        low, high = (0.0, 1.0), (1.0, 0.0)
        if step > 0:
            low = ((step - half + 0.5) / (total + 1), (total - step + half + 0.5) / (total + 1))
        if step + self.update_every <= total:
            high = ((step + half + 0.5) / (total + 1), (total - step - half + 0.5) / (total + 1))
        return low, high

    def _known_total(self) -> int:
        if self.total_steps is None:
            raise ArgumentError(
                "`total_steps` must be known for this kernel; got None; pass total_steps=epochs * len(loader)"
            )
        return self.total_steps


def _count(argument: str, value: object, cure: str) -> int:
    """``value`` as an ``int`` of at least 1; other whole-number types (NumPy) are accepted."""
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = 0
    if number < 1:
        raise ArgumentError(f"`{argument}` must be a whole number of at least 1; got {value!r}; {cure}")
    return number
