"""What both adapters do with a teacher: build it once the length of the run is known, and restore it."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from tracerft.averaging import Teacher
from tracerft.errors import ArgumentError, StateError, TeacherClockError

TeacherFactory = Callable[[nn.Module, int], Teacher]  # of student and optimiser steps; WMATeacher is one


def build(factory: TeacherFactory, student: nn.Module, total_steps: float) -> Teacher:
    """A teacher of the student as it is now.

    Args:
        factory: called with the student and the number of optimiser steps.
        student: in its pretrained state.
        total_steps: T as the trainer counts it; no teacher is built for one without an end.

    Raises:
        TeacherClockError: if the trainer cannot say how many steps there will be.
        ArgumentError: if the factory returns something else than a teacher.
    """
    if not math.isfinite(total_steps) or total_steps < 1:
        raise TeacherClockError(
            f"the trainer must know its optimiser steps at the start, since the teacher's weights are spread over "
            f"them; got {total_steps}; set max_steps"
        )
    teacher = factory(student, int(total_steps))
    if not isinstance(teacher, Teacher):
        raise ArgumentError(
            f"`teacher` must be called with (model, total_steps) and return a teacher; got {type(teacher).__name__}; "
            "pass WMATeacher, or such as lambda model, steps: EMATeacher(model, 0.999)"
        )
    return teacher


def restore(teacher: Teacher, state: Mapping[str, Any], where: str) -> None:
    """Load saved state.

    Args:
        teacher: built with the saved settings.
        state: what its ``state_dict`` gave.
        where: the checkpoint, for the message.

    Raises:
        StateError: if the state is of another teacher or another student.
    """
    try:
        teacher.load_state_dict(state)
    except StateError as error:
        raise StateError(f"{where}: {error}") from error
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise StateError(
            f"{where}: the saved teacher does not fit this student ({reason}); resume with the model it was saved with"
        ) from error


def check_clock(teacher: Teacher, step: int) -> None:
    """Raise `StateError` unless the teacher has seen as many optimiser steps as the trainer has taken."""
    if teacher.steps != step:
        raise StateError(
            f"the trainer is at optimiser step {step} but the teacher at {teacher.steps}; resume from a checkpoint "
            "that was written with this teacher, or start anew with a fresh trainer"
        )
