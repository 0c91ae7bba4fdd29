"""A callback of Lightning that owns a teacher: built at fit start, moved once per optimiser step, checkpointed."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from tracerft.averaging import Teacher, WMATeacher
from tracerft.errors import ArgumentError, MissingExtraError, StateError, TeacherClockError
from tracerft.integrations.teachers import TeacherFactory, build, check_clock, restore

try:
    import lightning.pytorch as pl
except ImportError as error:
    raise MissingExtraError("the callback needs Lightning installed; pip install 'tracerft[lightning]'") from error


class TeacherCallback(pl.Callback):
    """Call `teacher` in ``training_step``; everything else is done for you, and the student is left alone.

    Args:
        student: what the teacher averages: name of a submodule of the LightningModule, or a function that returns
            it. Not the LightningModule itself.
        teacher: called with the student and the trainer's number of optimiser steps; `WMATeacher`, or such as
            ``lambda model, steps: EMATeacher(model, 0.999)``.

    Raises:
        ArgumentError: at fit start, if there is no such student, or the strategy cuts its tensors into shards.
        TeacherClockError: if the trainer cannot say how many steps there will be, or takes several at once.
        StateError: if the run is resumed from a checkpoint that holds no teacher, or another one.

    Note:
        T is ``trainer.estimated_stepping_batches``, read at fit start and then fixed: a run that is resumed must
        have the length it was begun with. A step that mixed precision skips counts, as it does for the trainer.
    """

    def __init__(
        self,
        student: str | Callable[[pl.LightningModule], nn.Module] = "model",
        teacher: TeacherFactory = WMATeacher,
    ) -> None:
        self._student, self._factory = student, teacher
        self._teacher: Teacher | None = None
        self._saved: Mapping[str, Any] | None = None

    @property
    def teacher(self) -> Teacher:
        """The averaged model.

        Raises:
            StateError: before the first fit.
        """
        if self._teacher is None:
            raise StateError("there is no teacher before trainer.fit; pass the callback to the Trainer and fit")
        return self._teacher

    # Not in `setup`: there the student may not be built yet, nor the number of steps be known. By now the strategy
    # has made the student the same on all ranks, and so is the teacher; each rank keeps its own.
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Build the teacher, and restore it if the run is resumed."""
        if trainer.strategy.restore_checkpoint_after_setup:  # FSDP, DeepSpeed, ModelParallel
            raise ArgumentError(
                f"`strategy` {type(trainer.strategy).__name__} cuts the student into shards, but a teacher averages "
                "whole tensors; use ddp or one device"
            )
        self._teacher = build(self._factory, self._module(pl_module), trainer.estimated_stepping_batches)
        if self._saved is not None:
            restore(self._teacher, self._saved, "the checkpoint")
            self._saved = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse to go on from a checkpoint without a teacher."""
        check_clock(self.teacher, trainer.global_step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the student in if the optimiser has stepped; while gradients accumulate it has not."""
        new = trainer.global_step - self.teacher.steps
        if new > 1:
            raise TeacherClockError(
                f"the trainer counted {new} optimiser steps in one batch; a teacher follows one optimiser that steps "
                "once, so use automatic optimisation, or call WMATeacher.update in a loop of your own"
            )
        if new == 1:
            self.teacher.update(self._module(pl_module))

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values, for Lightning's checkpoint; empty before the first fit."""
        return {} if self._teacher is None else {"teacher": dict(self._teacher.state_dict())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state for `on_fit_start`, which Lightning calls later."""
        self._saved = state_dict["teacher"]

    def _module(self, pl_module: pl.LightningModule) -> nn.Module:
        try:
            found = self._student(pl_module) if callable(self._student) else pl_module.get_submodule(self._student)
        except AttributeError as error:
            raise ArgumentError(
                f"`student` {self._student!r} is not in {type(pl_module).__name__} ({error}); name the submodule that "
                "holds the dual encoder, such as model"
            ) from error
        if found is pl_module:  # its copy would hold the trainer and the data
            raise ArgumentError(
                f"`student` must be a part of {type(pl_module).__name__}, not all of it; name the submodule that "
                "holds the dual encoder, such as model"
            )
        return found
