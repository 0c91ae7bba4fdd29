"""What every method of the METHODS table must do; a new one is picked up by itself."""

import json

import numpy as np
import pytest
import torch

from tests.conftest import SMALL
from tests.methods.steps import FixedBatch, plan, random_batch
from tracerft.config import FinetuneConfig, LossConfig, TeacherConfig
from tracerft.methods import METHODS
from tracerft.models.encoder import freeze
from tracerft.models.tiny import TinyDualEncoder
from tracerft.running import build_method
from tracerft.training.checkpoint import join_state, split_state
from tracerft.training.optim import optimizer_tensors
from tracerft.training.trainer import Trainer

STEPS = 20


def build(name, loss=None, teacher=None):
    """A named method."""
    groups = {"loss": LossConfig(**{"targets": "diagonal"} | (loss or {})), "teacher": TeacherConfig(**(teacher or {}))}
    return build_method(FinetuneConfig(model="", data="", out="", method=name, **groups))


def train(method, folder, *, frozen="none", steps=STEPS, size=8, **changes):
    """A trainer that has taken its steps on the fixed batch."""
    folder.mkdir(parents=True, exist_ok=True)
    model = TinyDualEncoder(SMALL, seed=1)
    freeze(model, frozen)
    trainer = Trainer(model, method, FixedBatch(random_batch(), size), plan(steps, **changes), folder)
    trainer.run()
    return trainer


def lines(folder):
    """The metric log."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_is_finite_and_falls(name, tmp_path):
    """Twenty steps on one batch."""
    train(build(name), tmp_path)
    losses = [line["loss"] for line in lines(tmp_path)]
    assert len(losses) == STEPS
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("frozen", ["text", "image"])
@pytest.mark.parametrize("name", METHODS)
def test_frozen_tensors_stay_to_the_bit_and_the_rest_moves(name, frozen, tmp_path):
    """`text` freezes all but the image tower, `image` the image tower."""
    trainer = train(build(name), tmp_path, frozen=frozen, steps=3)
    for (key, now), start in zip(
        trainer.model.named_parameters(), TinyDualEncoder(SMALL, seed=1).parameters(), strict=True
    ):
        still = key.startswith("visual.") == (frozen == "image")
        assert now.requires_grad != still
        if still:
            assert torch.equal(now, start), key
    moved = [not torch.equal(a, b) for a, b in zip(trainer.model.parameters(), _start(), strict=True)]
    assert any(moved)


def _start():
    return TinyDualEncoder(SMALL, seed=1).parameters()


@pytest.mark.parametrize("name", METHODS)
def test_only_the_student_has_gradients_and_optimiser_slots(name, tmp_path):
    """References and evaluated models other than the student never train."""
    method = build(name)
    trainer = train(method, tmp_path, steps=2)
    others = [*method.references().values(), *(m for n, m in method.models().items() if n != "student")]
    trained = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in trainer.model.parameters()}
    for model in others:
        assert all(p.grad is None and id(p) not in trained for p in model.parameters())
    for model in method.references().values():
        assert not any(p.requires_grad for p in model.parameters())
        assert not model.training
    assert len(optimizer_tensors(trainer.model, trainer.optimizer)) == 3 * len(trained)


@pytest.mark.parametrize("name", METHODS)
def test_state_goes_through_a_checkpoint_and_back(name, tmp_path):
    """Put into a fresh method that started from other weights, the state and the models are the same."""
    method, twin = build(name), build(name)
    train(method, tmp_path, steps=3)
    other = TinyDualEncoder(SMALL, seed=2)
    twin.start(other, 3)
    tensors, plain = split_state(method.state_dict())
    twin.load_state_dict(join_state(tensors, json.loads(json.dumps(plain))))
    found, expected = split_state(twin.state_dict()), split_state(method.state_dict())
    assert found[1] == expected[1]
    assert found[0].keys() == expected[0].keys()
    assert all(torch.equal(found[0][n], expected[0][n]) for n in expected[0])


@pytest.mark.parametrize("name", METHODS)
def test_every_method_evaluates_the_student_itself(name, tmp_path):
    """Whatever else it offers."""
    method = build(name)
    trainer = train(method, tmp_path, steps=1)
    assert method.name == name
    assert method.models()["student"] is trainer.model


@pytest.mark.parametrize("name", METHODS)
def test_the_data_order_is_the_same_for_every_method(name, tmp_path):
    """A comparison of methods compares nothing else."""
    orders = []
    for one in (name, "flyp"):
        trainer = train(build(one), tmp_path / one, steps=6, size=20)
        orders.append([(epoch, ids.tolist()) for epoch, ids in trainer.source.asked])
    assert orders[0] == orders[1]


def same_steps(first, second, folder):
    """Both methods leave the same weights, optimiser and contrastive terms, step for step."""
    runs = [train(first, folder / "first"), train(second, folder / "second")]
    a, b = (dict(r.model.state_dict()) | optimizer_tensors(r.model, r.optimizer) for r in runs)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[n], b[n]) for n in a)
    logs = [[(x["contrastive"], x["grad_norm"]) for x in lines(folder / n)] for n in ("first", "second")]
    assert logs[0] == logs[1]


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("tracer", {"sd_weight": 0.0}),
        ("tracer", {"fd": 0.0, "crd": 0.0, "icl": 0.0, "cross_kd": 0.0}),
        ("sd_ema", {"sd_weight": 0.0}),
        ("sd_static", {"sd_weight": 0.0}),
        ("contrastive_l2_sp", {"l2_sp": 0.0}),
        ("wise_ft", {}),
    ],
)
def test_a_coefficient_of_zero_is_direct_finetuning_step_for_step(name, loss, tmp_path):
    """Bitwise; WiSE-FT's training is direct finetuning by definition."""
    same_steps(build(name, loss), build("flyp"), tmp_path)


def test_a_coefficient_above_zero_is_not(tmp_path):
    """The control of the claim above."""
    with pytest.raises(AssertionError):
        same_steps(build("tracer", {"sd_weight": 0.1}), build("flyp"), tmp_path)


def test_an_ema_that_never_moves_is_the_static_teacher_step_for_step(tmp_path):
    """Momentum 1 keeps theta_0."""
    same_steps(build("sd_ema", teacher={"momentum": 1.0}), build("sd_static"), tmp_path)


def test_teachers_differ_by_their_rule_only(tmp_path):
    """After training: static is theta_0, the others have moved, each to another place, none to the student."""
    ends = {}
    for name in ("tracer", "sd_ema", "sd_static"):
        method = build(name, teacher={"momentum": 0.9} if name == "sd_ema" else None)
        trainer = train(method, tmp_path / name)
        ends[name] = method.models()["teacher"].visual.proj
        assert not torch.equal(ends[name], trainer.model.visual.proj)
    assert torch.equal(ends["sd_static"], TinyDualEncoder(SMALL, seed=1).visual.proj)
    assert not torch.equal(ends["tracer"], ends["sd_static"])
    assert not torch.equal(ends["tracer"], ends["sd_ema"])
