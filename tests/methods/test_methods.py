"""Particular methods, the table, and methods from elsewhere."""

import pytest
import torch

import tracerft
from tests.conftest import SMALL
from tests.methods.test_contract import build, train
from tests.runs import contents, finetune
from tests.training.test_trainer import InfinitePenalty
from tracerft.errors import ArgumentError
from tracerft.methods import METHODS, list_methods
from tracerft.models.tiny import TinyDualEncoder


def test_l2_sp_is_zero_with_zero_gradient_at_the_start():
    """At theta_0 there is nothing to pull; one step away it is lambda/2 of the squared distance."""
    method, model = build("contrastive_l2_sp", {"l2_sp": 0.5}), TinyDualEncoder(SMALL)
    method.start(model, 3)
    penalty = method.penalty(model)
    penalty.total.backward()
    assert penalty.total.item() == 0.0
    assert all(not p.grad.any() for n, p in model.named_parameters() if n != "logit_scale")
    assert model.logit_scale.grad is None
    with torch.no_grad():
        model.visual.proj += 0.1
        model.logit_scale += 5.0  # is left out
    expected = 0.5 * 0.5 * 0.01 * model.visual.proj.numel()  # hand computation
    assert method.penalty(model).total.item() == pytest.approx(expected, rel=1e-4)


def test_l2_sp_holds_the_weights_back(tmp_path):
    """The stronger the pull, the shorter the way."""
    start = TinyDualEncoder(SMALL, seed=1).visual.proj
    ways = []
    for strength in (0.0, 1.0, 10.0):
        trainer = train(build("contrastive_l2_sp", {"l2_sp": strength}), tmp_path)
        ways.append((trainer.model.visual.proj - start).norm().item())
    assert ways[0] > ways[1] > ways[2]


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_wise_ft_is_the_straight_line_between_start_and_end(alpha, tmp_path):
    """Both ends to the bit, the middle by plain arithmetic."""
    method = build("wise_ft", teacher={"alpha": alpha})
    trainer = train(method, tmp_path, steps=3)
    start, end = TinyDualEncoder(SMALL, seed=1).state_dict(), trainer.model.state_dict()
    merged = method.models()[f"student-wise-{alpha:.2f}"].state_dict()
    for name in end:
        if alpha in (0.0, 1.0):
            assert torch.equal(merged[name], (start, end)[int(alpha)][name])
        torch.testing.assert_close(merged[name], (1 - alpha) * start[name] + alpha * end[name])


def test_cross_frobenius_is_logged_and_lowers_the_overlap(tmp_path):
    """||P_I P_T^T|| falls faster with a weight on it."""
    norms = []
    for weight in (0.0, 1.0):
        trainer = train(build("flyp", {"cross_frobenius": weight}), tmp_path)
        norms.append((trainer.model.visual.proj @ trainer.model.text.proj.T).norm().item())
    assert norms[1] < 0.9 * norms[0]


@pytest.mark.parametrize("option", ["l2_sp", "cross_frobenius"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_bad_coefficient_is_named(option, value):
    """Negative, NaN, infinite."""
    with pytest.raises(ArgumentError, match=rf"`loss\.{option}` must be a finite number >= 0"):
        build("contrastive_l2_sp", {option: value})


def test_the_table_tells_what_the_documentation_prints():
    """Every field is filled, names are keys, years are numbers."""
    rows = list_methods()
    assert [row["name"] for row in rows] == list(METHODS)
    for row in rows:
        assert list(row) == ["name", "family", "paper", "year", "summary", "cost", "extra_data"]
        assert all(row.values())
        assert 2016 <= row["year"] <= 2026
        assert str(row["year"]) in row["paper"]
        assert row["summary"].endswith(".")


@pytest.mark.parametrize("name", METHODS)
def test_every_used_option_exists(name):
    """`uses` names options of the groups loss and teacher."""
    from tracerft.config import LossConfig, TeacherConfig

    known = {f"loss.{k}" for k in vars(LossConfig())} | {f"teacher.{k}" for k in vars(TeacherConfig())}
    known |= {"probe", "pool"}
    assert set(METHODS[name].uses) <= known


class Mine(InfinitePenalty):
    """A method of somebody else, without a penalty."""

    def penalty(self, model):
        """None."""
        return None


def test_an_object_without_registration_runs(small_model, digits_folder, tmp_path):
    """Trained, evaluated, recorded under its own name, resumable like any other."""
    run = finetune(small_model, digits_folder, tmp_path / "run", method=Mine())
    assert run.record["method"] == "mine"
    assert set(run.results) == {"pretrained", "student"}
    assert run.record["pretrained_weight"] is None
    again = finetune(small_model, digits_folder, tmp_path / "again", method=Mine())
    assert contents(run.folder) == contents(again.folder)
    assert set(tracerft.evaluate(run).results) == {"pretrained", "student"}
