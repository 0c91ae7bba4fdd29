"""The loop: what it refuses, what it logs, and that it stops in time."""

import gc
import json
import weakref

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.conftest import SMALL
from tests.methods.steps import FixedBatch, plan, random_batch
from tracerft.config import FinetuneConfig, LossConfig
from tracerft.errors import NonFiniteError
from tracerft.models.tiny import TinyDualEncoder
from tracerft.preparing import build_method
from tracerft.training.checkpoint import newest_checkpoint
from tracerft.training.trainer import MAX_LOG_SCALE, Trainer
from tracerft.types import LossTerms


def method(name="tracer", **loss):
    """A named method with its defaults."""
    return build_method(
        FinetuneConfig(model="", data="", out="", method=name, loss=LossConfig(**{"targets": "diagonal"} | loss))
    )


def lines(folder):
    """The metric log."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class PoisonedAt(FixedBatch):
    """A source whose batch has a NaN pixel at one step."""

    def __init__(self, step):
        super().__init__(random_batch())
        self.step, self.calls = step, 0

    def batch(self, sample_ids, epoch):
        """The batch, poisoned at its step."""
        self.calls += 1
        batch = super().batch(sample_ids, epoch)
        if self.calls == self.step:
            batch.images[0, 0, 0, 0] = float("nan")
        return batch


def test_a_nan_stops_the_run_before_the_teacher_sees_it(tmp_path):
    """The step, the term and samples are named; student, teacher and checkpoint are those of the step before."""
    model, chosen = TinyDualEncoder(SMALL), method()
    trainer = Trainer(model, chosen, PoisonedAt(3), plan(5, checkpoint_every=1), tmp_path)
    with pytest.raises(NonFiniteError, match=r"step 3: loss, .*grad_norm not finite \(samples 0, 1"):
        trainer.run()
    checkpoint, problems = newest_checkpoint(tmp_path / "checkpoints")
    assert (checkpoint.step, problems) == (2, [])
    saved = checkpoint.parts["student"]
    assert all(torch.equal(v, saved[n]) for n, v in model.state_dict().items())
    assert chosen.teacher.steps == 2
    averaged = chosen.teacher.state_dict()
    assert all(torch.equal(v, averaged[n.removeprefix("teacher/")]) for n, v in checkpoint.parts["method"].items())


class InfinitePenalty:
    """A method whose penalty overflows at its second call."""

    name = "mine"

    def __init__(self):
        self.calls = self.updates = 0

    def start(self, model, total_steps):
        """Keep the model."""
        self.model = model

    def references(self):
        """None."""
        return {}

    def objective(self, student, references, batch):
        """Negative cosine of the pairs."""
        loss = -(student.image * student.text).sum(1).mean()
        return LossTerms(loss, {"match": loss.detach()})

    def penalty(self, model):
        """Infinite at the second call."""
        self.calls += 1
        total = model.logit_scale * (float("inf") if self.calls == 2 else 0.0)
        return LossTerms(total, {"pull": total.detach()})

    def after_step(self, model):
        """Count."""
        self.updates += 1

    def models(self):
        """The student."""
        return {"student": self.model}

    def state_dict(self):
        """Nothing."""
        return {}

    def load_state_dict(self, state):
        """Nothing."""


def test_an_infinite_penalty_is_named_too(tmp_path):
    """Terms on weights are checked like terms on the batch."""
    mine = InfinitePenalty()
    with pytest.raises(NonFiniteError, match=r"step 2: .*pull"):
        Trainer(TinyDualEncoder(SMALL), mine, FixedBatch(random_batch()), plan(4), tmp_path).run()
    assert mine.updates == 1


class Transfers(TorchDispatchMode):
    """Counts values that leave the device one by one."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run and count."""
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_the_check_reads_all_values_at_once_and_exactly(tmp_path):
    """No value is fetched alone, and each is the number it was, whatever the dtypes beside it."""
    trainer = Trainer(TinyDualEncoder(SMALL), method("flyp"), FixedBatch(random_batch()), plan(1), tmp_path)
    for parameter in trainer.model.parameters():
        parameter.grad = torch.full_like(parameter, 0.1)
    terms = {"loss": torch.tensor(0.1), "a": torch.tensor([0.1]), "b": torch.tensor(0.1, dtype=torch.bfloat16)}
    terms["c"] = torch.tensor(0.1, dtype=torch.float64)
    with Transfers() as seen:
        values = trainer._checked(terms, random_batch())
    assert seen.count == 0
    norm = torch.nn.utils.get_total_norm([p.grad for p in trainer.model.parameters()])
    assert values == {name: value.item() for name, value in {**terms, "grad_norm": norm}.items()}
    with Transfers() as control:
        float(norm)
    assert control.count == 1


def test_the_log_has_terms_rate_and_epoch_at_its_interval_and_the_last_step(tmp_path):
    """Probes are logged at step 0, at their interval, and at the end."""
    Trainer(
        TinyDualEncoder(SMALL),
        method(),
        FixedBatch(random_batch()),
        plan(5, log_every=2, probe_every=3),
        tmp_path,
        probe=lambda step: {"probe": float(step)},
    ).run()
    found = lines(tmp_path)
    assert [line["step"] for line in found] == [0, 2, 3, 4, 5]
    assert [line.get("probe") for line in found] == [0.0, None, 3.0, None, 5.0]
    assert ["loss" in line for line in found] == [False, True, False, True, True]
    terms = {"step", "loss", "contrastive", "fd", "crd", "icl", "cross_kd", "grad_norm", "lr", "epoch"}
    assert set(found[1]) == terms


def test_the_scale_is_clamped_after_the_step(tmp_path):
    """CLIP's clamp: the scale stays in [1, 100], or below its start if that is higher; a frozen one is left alone."""
    for start, trains, end in ((4.5, True, MAX_LOG_SCALE), (5.0, True, 5.0), (5.0, False, 5.0)):
        model = TinyDualEncoder(SMALL)
        with torch.no_grad():
            model.logit_scale.fill_(start)
        model.logit_scale.requires_grad_(trains)
        trainer = Trainer(model, method("flyp"), FixedBatch(random_batch()), plan(1), tmp_path)
        with torch.no_grad():
            model.logit_scale.fill_(6.0 if trains else start)  # as if a step had gone too far
        trainer.run()
        assert model.logit_scale.item() == pytest.approx(end)


def test_training_leaves_the_global_generator_alone(tmp_path):
    """A step draws from a generator keyed by the step."""
    torch.manual_seed(7)
    before = torch.get_rng_state()
    Trainer(TinyDualEncoder(SMALL), method(), FixedBatch(random_batch()), plan(2), tmp_path).run()
    assert torch.equal(torch.get_rng_state(), before)


def test_bf16_autocast_is_close_to_fp32(tmp_path):
    """One step's loss within 1e-2, and weights stay in float32."""
    losses = []
    for autocast in (False, True):
        model, folder = TinyDualEncoder(SMALL), tmp_path / str(autocast)
        folder.mkdir()
        Trainer(model, method(), FixedBatch(random_batch()), plan(1, autocast=autocast), folder).run()
        losses.append(lines(folder)[-1]["loss"])
        assert all(p.dtype == torch.float32 for p in model.parameters())
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def test_batches_are_asked_for_in_the_order_of_the_seed(tmp_path):
    """Sample ids and epochs come from `batch_at`."""
    source = FixedBatch(random_batch(), size=20)
    Trainer(TinyDualEncoder(SMALL), method("flyp"), source, plan(4, seed=3), tmp_path).run()
    from tracerft.data.sampling import batch_at

    for step, (epoch, ids) in enumerate(source.asked):
        expected_epoch, expected = batch_at(step, 3, 20, 8)
        assert epoch == expected_epoch
        assert np.array_equal(ids, expected)


def test_a_trainer_that_is_dropped_is_gone_at_once(tmp_path):
    """It holds the model and its moments; the thread that makes the next batch does not hold it."""
    trainer = Trainer(TinyDualEncoder(SMALL), method("flyp"), FixedBatch(random_batch()), plan(3), tmp_path)
    trainer.run()
    gone = weakref.ref(trainer)
    gc.disable()  # or a collection that happens to come would do it
    try:
        del trainer
        assert gone() is None
    finally:
        gc.enable()
