"""`merge` and its command: what may be merged, ends that are known, and what stays of the class head."""

import json

import pytest
import torch

from tests.runs import finetune
from tracerft.cli.main import run as command
from tracerft.errors import ArgumentError, RunFolderError
from tracerft.merging import merge, periodic_model_stock
from tracerft.models.head import need_head
from tracerft.models.weights import load_model
from tracerft.sources import read_parts


@pytest.fixture(scope="module")
def runs(small_model, digits_folder, tmp_path_factory):
    """Three runs with a class head from one start, and one of FLYP."""
    folder = tmp_path_factory.mktemp("runs")
    made = [
        finetune(small_model, digits_folder, folder / f"ce{seed}", method="ce_ft", train={"seed": seed})
        for seed in range(3)
    ]
    return [run.folder for run in made], finetune(small_model, digits_folder, folder / "flyp", method="flyp").folder


def config_of(folder):
    """How a run was made."""
    from tracerft.config import read_config

    return read_config(folder / "config.yaml")


def suite_of(folder):
    """The suite of a run."""
    config = config_of(folder)
    return read_parts(config, load_model(config.model)).suite


def weights(folder):
    """A run's student, head included."""
    return load_model(folder / "student").model.state_dict()


def test_a_soup_is_the_mean_head_included(runs):
    """Of two: plain arithmetic."""
    (a, b, _), _ = runs
    merged = merge("uniform_soup", [a, b]).model.state_dict()
    first, second = weights(a), weights(b)
    for name in first:
        torch.testing.assert_close(merged[name], (first[name] + second[name]) / 2)
    assert not torch.equal(first["class_head.weight"], second["class_head.weight"])


@pytest.mark.parametrize(("alpha", "end"), [(0.0, "class_head.start"), (1.0, "class_head.weight")])
def test_wise_runs_between_the_zero_shot_head_and_the_trained_one(alpha, end, runs):
    """Both ends to the bit."""
    folder = runs[0][0]
    merged = merge("wise", [folder], alpha=alpha)
    assert torch.equal(merged.model.state_dict()["class_head.weight"], weights(folder)[end])


def test_model_stock_lies_between_start_and_mean(runs):
    """Two runs from one start: every tensor on the segment; equal runs give the run."""
    (a, b, _), _ = runs
    merged = merge("model_stock", [a, b])
    assert "pretrained" in merged.note
    same = merge("model_stock", [a, a]).model.state_dict()
    for name, value in weights(a).items():
        torch.testing.assert_close(same[name], value)


def test_a_greedy_soup_keeps_some_and_tpgm_stays_near(runs):
    """Both choose on held-out digits."""
    (a, b, c), _ = runs
    suite = suite_of(a)
    assert "of 3 were kept" in merge("greedy_soup", [a, b, c], suite=suite).note
    projected = merge("tpgm", [a], suite=suite).model.state_dict()
    start, end = (
        load_model(json.loads((a / "record.json").read_text())["config"]["model"]).model.state_dict(),
        weights(a),
    )
    for name, value in start.items():
        assert (projected[name] - value).norm() <= (end[name] - value).norm() * (1 + 1e-5)


def test_what_cannot_be_merged_is_told(runs, small_model, digits_folder, tmp_path):
    """One line each."""
    (a, b, _), flyp = runs
    other = finetune("tiny", digits_folder, tmp_path / "other", method="flyp", train={"steps": 1}).folder
    for kind, folders, error, message in (
        ("stew", [a, b], ArgumentError, "kind"),
        ("uniform_soup", [a], ArgumentError, "at least 2 runs; got 1"),
        ("wise", [a, b], ArgumentError, "takes 1 run; got 2"),
        ("greedy_soup", [a, b], ArgumentError, "held-out images"),
        ("uniform_soup", [flyp, other], RunFolderError, "share one start"),
        ("uniform_soup", [a, tmp_path], RunFolderError, "not a finished run"),
    ):
        with pytest.raises(error, match=message):
            merge(kind, folders)


def test_the_command_writes_a_model_that_loads_and_prints_what_it_is_worth(runs, tmp_path, capsys):
    """A table, JSON, and a folder that is not overwritten."""
    (a, b, _), flyp = runs
    assert command(["merge", "uniform_soup", str(a), str(b), "--out", str(tmp_path / "soup")]) == 0
    shown = capsys.readouterr()
    assert "merged" in shown.out
    assert "the mean of 2 runs" in shown.err
    assert need_head(load_model(tmp_path / "soup").model).weight.shape[0] == 2
    assert command(["merge", "uniform_soup", str(a), str(b), "--out", str(tmp_path / "soup")]) == 2
    assert "not empty" in capsys.readouterr().err
    assert command(["merge", "wise", str(flyp), "--alpha", "0", "--out", str(tmp_path / "wise"), "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert results["merged"] == results["pretrained"]
    assert command(["merge", "wise", str(tmp_path), "--out", str(tmp_path / "none")]) == 2
    assert "not a finished run" in capsys.readouterr().err


def test_dawin_is_evaluated_beside_the_run(runs, capsys):
    """A third model in the table; of two runs at once it is refused."""
    (a, b, _), _ = runs
    assert command(["evaluate", str(a), "--dawin", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert set(results) == {"pretrained", "student", "student-dawin"}
    assert set(results["student-dawin"]) == set(results["student"])
    assert command(["evaluate", str(a), "--against", str(b), "--dawin"]) == 2
    assert "`dawin` is of one run" in capsys.readouterr().err


def test_periodic_model_stock_is_model_stock_at_one_round_and_goes_on_from_merges(runs, tmp_path, monkeypatch):
    """Two rounds of three steps: the second starts from the first's merge; what is finished is not run again."""
    from dataclasses import replace

    from tracerft import merging

    config = config_of(runs[0][0])
    one = periodic_model_stock(replace(config, out=str(tmp_path / "one")), 1)
    branches = [tmp_path / "one/round-1" / f"branch-{i}" for i in (1, 2)]
    expected = merge("model_stock", branches).model.state_dict()
    found = load_model(one).model.state_dict()
    assert all(torch.equal(found[n], expected[n]) for n in expected)
    two = periodic_model_stock(replace(config, out=str(tmp_path / "two")), 2)
    second = config_of(tmp_path / "two/round-2/branch-2")
    assert second.model == str(tmp_path / "two/round-1/merged")
    assert second.train.steps == 3
    assert need_head(load_model(two).model).weight.requires_grad
    made = []
    monkeypatch.setattr(merging, "run_config", lambda *a, **k: made.append(k["resume"]))
    periodic_model_stock(replace(config, out=str(tmp_path / "two")), 2)
    assert made == [True] * 4
    with pytest.raises(ArgumentError, match="`rounds`"):
        periodic_model_stock(config, 7)


@pytest.mark.parametrize("method", ["flyp", "ce_ft", "lipsum_ft"])
def test_a_finetuned_classifier_can_be_a_start(method, runs, digits_folder, tmp_path):
    """A contrastive method leaves the head behind, the same kind goes on from it, another kind starts its own."""
    from tracerft import evaluate

    (a, _, _), _ = runs
    run = finetune(a, digits_folder, tmp_path / method, method=method, train={"steps": 2, "lr": 1e-6})
    end, old = load_model(run.folder / "student").model, need_head(load_model(a).model)
    if method == "flyp":
        assert not hasattr(end, "class_head")
    elif method == "ce_ft":
        torch.testing.assert_close(need_head(end).weight, old.weight, rtol=1e-3, atol=1e-3)
    else:
        assert need_head(end).bias is None
    assert set(evaluate(run, interpolate=3).results) == {"pretrained", "student", "student-wise-0.50"}
