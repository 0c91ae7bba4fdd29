"""Lightning's callback: the teacher's clock, its average, its checkpoint, and a student that is left alone."""

import importlib
import sys

import pytest
import torch

pytest.importorskip("lightning")

import lightning.pytorch as pl

from tests.conftest import SMALL
from tests.integrations.averages import assert_average, assert_same, snapshot
from tracerft import EMATeacher, TracerLoss, contrastive_loss
from tracerft.errors import ArgumentError, MissingExtraError, StateError, TeacherClockError
from tracerft.integrations.lightning import TeacherCallback
from tracerft.models.tiny import TinyDualEncoder, tokenize
from tracerft.types import Embeddings

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # one process is meant
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),  # resumed runs here keep no checkpoints
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*deprecated:FutureWarning"),  # Lightning 2.6 with torch 2.14
]
# Five batches, two to a step: three steps an epoch, the last of one batch.
BATCHES, STEPS = 5, 6


def batches():
    """Seeded noise, the same four captions each time."""
    generator = torch.Generator().manual_seed(0)
    texts = tokenize(["zero", "one", "two", "three"])
    pairs = [(torch.rand(4, 3, 28, 28, generator=generator), texts) for _ in range(BATCHES)]
    return torch.utils.data.DataLoader(pairs, batch_size=None)


class Tuner(pl.LightningModule):
    """Minimises the TRACER loss, or without a callback the contrastive loss alone; keeps the trajectory."""

    def __init__(self, seed=3, averager=None, sd_weight=0.9):
        super().__init__()
        self.model, self.averager, self.criterion = TinyDualEncoder(SMALL, seed=seed), averager, TracerLoss(sd_weight)
        self.trajectory, self.seen = [snapshot(self.model)], []

    def training_step(self, batch, batch_idx):
        """The loss of one batch."""
        student = self.model(*batch)
        if self.averager is None:
            return contrastive_loss(Embeddings.of(student))
        self.seen.append(self.averager.teacher.steps)
        return self.criterion(student, self.averager.teacher(*batch)).total

    def configure_optimizers(self):
        """Momentum, so that its state matters; every step leaves a snapshot."""
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        optimizer.register_step_post_hook(lambda *_: self.trajectory.append(snapshot(self.model)))
        return optimizer


def trainer(tmp_path, *callbacks, **options):
    """Two epochs on the CPU without logs."""
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    checkpoints = any(isinstance(callback, pl.callbacks.ModelCheckpoint) for callback in callbacks)
    options = {"max_epochs": 2, "accumulate_grad_batches": 2, "enable_checkpointing": checkpoints} | options
    where = {"accelerator": "cpu", "default_root_dir": tmp_path}
    return pl.Trainer(callbacks=list(callbacks), **quiet, **where, **options)


def saving(tmp_path):
    """Keeps a checkpoint for each epoch."""
    return pl.callbacks.ModelCheckpoint(dirpath=tmp_path, filename="{step}", save_top_k=-1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An unbroken run: its module, its callback, and the folder of its checkpoints."""
    folder = tmp_path_factory.mktemp("whole")
    averager = TeacherCallback()
    tuner = Tuner(averager=averager)
    trainer(folder, averager, saving(folder)).fit(tuner, batches())
    return tuner, averager, folder


def test_teacher_is_the_average_of_the_trajectory_and_counts_optimiser_steps(whole):
    """Ten batches, six steps; within an accumulation the teacher stands still, the pretrained state is kept."""
    tuner, averager, _ = whole
    assert averager.teacher.clock.total_steps == averager.teacher.steps == STEPS == len(tuner.trajectory) - 1
    assert tuner.seen == [0, 0, 1, 1, 2, 3, 3, 4, 4, 5]
    assert_average(averager.teacher, tuner.trajectory)


def test_resumed_run_is_the_unbroken_one(whole, tmp_path):
    """Another start, then the first epoch's checkpoint: student and teacher end with the same bits."""
    averager = TeacherCallback()
    tuner = Tuner(seed=8, averager=averager)
    trainer(tmp_path, averager).fit(tuner, batches(), ckpt_path=whole[2] / "step=3.ckpt", weights_only=True)
    assert tuner.seen == [3, 3, 4, 4, 5]
    assert_same(tuner.model, whole[0].model)
    assert_same(averager.teacher, whole[1].teacher)
    assert averager.teacher.get_extra_state() == whole[1].teacher.get_extra_state()


def test_checkpoint_holds_plain_tensors_only(whole):
    """It loads with weights_only, and the teacher's tensors are neither parameters nor on a graph."""
    state = torch.load(whole[2] / "step=6.ckpt", weights_only=True)["callbacks"]["TeacherCallback"]["teacher"]
    assert {type(value) for name, value in state.items() if name != "_extra_state"} == {torch.Tensor}
    assert not any("teacher" in name for name in whole[0].state_dict())


def test_student_is_not_changed_by_the_callback(tmp_path):
    """With weight 0 the run is that of a module without a callback, bit by bit."""
    averager = TeacherCallback(lambda module: module.model)
    with_it, without = Tuner(averager=averager, sd_weight=0), Tuner()
    trainer(tmp_path, averager).fit(with_it, batches())
    trainer(tmp_path).fit(without, batches())
    assert_same(with_it, without)
    assert averager.teacher.steps == STEPS


def test_checkpoint_without_or_with_another_teacher_is_refused(whole, tmp_path):
    """One line says what is missing or differs."""
    bare = trainer(tmp_path, saving(tmp_path), max_epochs=1)
    bare.fit(Tuner(), batches())
    averager = TeacherCallback()
    with pytest.raises(StateError, match="at optimiser step 3 but the teacher at 0"):
        trainer(tmp_path, averager).fit(Tuner(averager=averager), batches(), ckpt_path=tmp_path / "step=3.ckpt")
    longer, other = TeacherCallback(), TeacherCallback(teacher=lambda model, steps: EMATeacher(model, 0.9))
    for averager, says, epochs in ((longer, "total_steps=6 but this one has total_steps=9", 3), (other, "kernel", 2)):
        with pytest.raises(StateError, match=says):
            trainer(tmp_path, averager, max_epochs=epochs).fit(
                Tuner(averager=averager), batches(), ckpt_path=whole[2] / "step=3.ckpt"
            )


def test_what_cannot_be_followed_is_refused(tmp_path, monkeypatch):
    """No such student, the whole module, no end, no teacher, shards."""
    for averager, error, says, options in (
        (TeacherCallback("net"), ArgumentError, "`student` 'net' is not in Tuner", {}),
        (TeacherCallback(lambda module: module), ArgumentError, "must be a part of Tuner", {}),
        (TeacherCallback(), TeacherClockError, "set max_steps", {"max_epochs": -1}),
        (TeacherCallback(teacher=lambda model, steps: model), ArgumentError, "return a teacher", {}),
    ):
        with pytest.raises(error, match=says) as caught:
            trainer(tmp_path, averager, **options).fit(Tuner(), batches())
        assert "\n" not in str(caught.value)
        with pytest.raises(StateError, match=r"before trainer\.fit"):
            _ = averager.teacher
    one = trainer(tmp_path, TeacherCallback())
    # Stands for FSDP, which Lightning builds on a GPU only.
    monkeypatch.setattr(type(one.strategy), "restore_checkpoint_after_setup", True)
    with pytest.raises(ArgumentError, match="shards"):
        one.fit(Tuner(), batches())


def test_two_steps_in_a_batch_are_refused(tmp_path):
    """A teacher that saw only every second step would be no average of the trajectory."""

    class Manual(Tuner):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            for _ in range(2):
                self.manual_backward(contrastive_loss(Embeddings.of(self.model(*batch))))
                self.optimizers().step()

    with pytest.raises(TeacherClockError, match="2 optimiser steps in one batch"):
        trainer(tmp_path, TeacherCallback(), accumulate_grad_batches=1).fit(Manual(), batches())


def test_missing_library_names_the_extra(monkeypatch):
    """One line, at import."""
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.delitem(sys.modules, "tracerft.integrations.lightning")
    with pytest.raises(MissingExtraError, match=r"tracerft\[lightning\]"):
        importlib.import_module("tracerft.integrations.lightning")
