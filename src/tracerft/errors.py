"""Every error a user can cause. One line each: what, expected, came, what to do.

Owns the exception types. Imports nothing of the project.
"""


class TracerftError(Exception):
    """Base of everything `tracerft` raises on purpose; its text is one line for the user."""


class ArgumentError(TracerftError, ValueError):
    """A value is out of range, of the wrong kind, or does not fit another value."""


class ShapeError(ArgumentError):
    """Two tensors that belong together differ in shape, or one has too few rows."""


class TeacherClockError(TracerftError, RuntimeError):
    """The teacher's step clock and the training run disagree (Definition 3.3)."""


class StateError(TracerftError, RuntimeError):
    """Saved state belongs to another model, kernel, length, data set or configuration."""


class DataError(TracerftError, ValueError):
    """A data set is missing, damaged, empty, or not what was said."""


class CheckpointError(TracerftError, RuntimeError):
    """A checkpoint folder is damaged, incomplete or of an unknown version."""


class RunFolderError(TracerftError, FileExistsError):
    """The output folder cannot be used for this run."""


class NonFiniteError(TracerftError, FloatingPointError):
    """A loss or gradient became NaN or infinite; training stopped before the teacher saw it."""


class WorkerError(TracerftError, RuntimeError):
    """A process that this one works with, of a study or another rank, was killed or is gone."""


class StoppedError(TracerftError, RuntimeError):
    """A signal asked the run to stop; the step it was at is saved."""


class MissingExtraError(TracerftError, ImportError):
    """An optional package is not installed; the text names the extra that brings it."""


def one_of(argument: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise `ArgumentError` with the nearest allowed word unless ``value`` is allowed."""
    if value in allowed:
        return
    raise ArgumentError(
        f"`{argument}` must be one of {', '.join(allowed)}; got {value!r}{did_you_mean(value, allowed)}"
    )


def did_you_mean(value: object, allowed: tuple[str, ...] | list[str]) -> str:
    """`` (did you mean 'x'?)`` for the closest of ``allowed``, or an empty string."""
    import difflib

    close = difflib.get_close_matches(str(value), list(allowed), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""
