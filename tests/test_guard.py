"""Runs with a guard: what is logged, what is proposed, and that training does not notice."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

import tracerft
from tests import image_runs
from tests.runs import Cut, contents, cut_at, finetune
from tracerft.api import make_ready
from tracerft.averaging import interpolate
from tracerft.config import FinetuneConfig, GuardConfig
from tracerft.config_rules import check
from tracerft.data.suite import digit_suite
from tracerft.errors import ArgumentError
from tracerft.guarding import Guard
from tracerft.models.weights import load_model, load_tensors

SHIFTS = ["original", "colour-random", "colour-flipped"]
LOOSE = {"max_drop": 100.0, "every": 4}
STEPS = 12  # after which the student is better on held-out images, and much worse on flipped colours
LONGER = {"steps": STEPS}


def log(run):
    """Lines of metrics.jsonl by step, guard values alone."""
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    found = {line["step"]: {k: v for k, v in line.items() if k.startswith("guard_")} for line in lines}
    return {step: values for step, values in found.items() if values}


@pytest.fixture(scope="module")
def run(small_model, digits_folder, tmp_path_factory):
    """TRACER, guarded on whole test splits with a bound that nothing breaks."""
    guard = LOOSE | {"suite": digits_folder}
    return finetune(small_model, digits_folder, tmp_path_factory.mktemp("guard") / "run", guard=guard, train=LONGER)


@pytest.fixture(scope="module")
def plain(small_model, digits_folder, tmp_path_factory):
    """The same run without a guard."""
    return finetune(small_model, digits_folder, tmp_path_factory.mktemp("plain") / "run", train=LONGER)


def test_values_are_logged_at_the_start_every_few_steps_and_at_the_end(run):
    """From: the record, where the same splits are evaluated in whole; the gap keeps its own interval of 3."""
    found, results = log(run), run.results
    assert list(found) == [0, 4, 8, STEPS]
    for name in SHIFTS:
        assert found[0][f"guard_student_{name}"] == results["pretrained"][name]["top1"]
        assert found[STEPS][f"guard_student_{name}"] == results["student"][name]["top1"]
        assert found[STEPS][f"guard_teacher_{name}"] == results["teacher"][name]["top1"]
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "gap_kl" in line] == [0, 3, 6, 9, STEPS]


def test_training_does_not_notice(run, plain):
    """Weights, checkpoints and all other results equal those of the run without, to the byte."""
    with_guard, without = contents(run.folder), contents(plain.folder)
    assert {k: v for k, v in with_guard["results"].items() if k != "guarded"} == without["results"]
    for name in set(without) - {"results", "metrics.jsonl"}:
        if not name.endswith(("state.json", "manifest.json")):  # where the log is to be cut
            assert with_guard[name] == without[name], name
    assert set(with_guard) - set(without) == {n for n in with_guard if n.split("/")[-2:-1] == ["guarded"]
                                              or n.startswith("predictions/guarded")}  # fmt: skip
    assert "guard" not in plain.record


def test_the_front_is_what_evaluate_says_of_the_line(run):
    """From: `evaluate` with 11 points, which mixes weights that were read back, on whole splits."""
    found = tracerft.evaluate(run, interpolate=11).results
    front = run.record["guard"]["front"]
    assert len(front) == 21
    assert [(r["model"], r["alpha"]) for r in front[:2]] == [("pretrained", 0.0), ("student", 0.1)]
    for row in front:
        inner = f"{row['model']}-wise-{row['alpha']:.2f}"
        scores = found[inner if inner in found else row["model"]]
        assert row["accuracy"] == scores["select-id"]["top1"]
        assert row["guards"] == {name: scores[name]["top1"] for name in SHIFTS}
        start = found["pretrained"]
        for name in SHIFTS:
            assert row["drops"][name] == pytest.approx(100 * (start[name]["top1"] - scores[name]["top1"]))


def test_what_is_proposed_is_saved_evaluated_and_recorded(run):
    """The best row on held-out images, as no set can drop by more than 100 points; its weights lie on the line."""
    guard, front = run.record["guard"], run.record["guard"]["front"]
    best = max(row["accuracy"] for row in front)
    chosen = guard["chosen"]
    assert chosen["accuracy"] == best == run.results["guarded"]["select-id"]["top1"]
    assert best > run.results["pretrained"]["select-id"]["top1"]
    start = load_model(run.record["config"]["model"]).model
    end, made = (load_model(run.folder / name).model for name in (chosen["model"], "guarded"))
    line = interpolate(start, end, chosen["alpha"]).state_dict()
    assert all(torch.equal(line[name], tensor) for name, tensor in made.state_dict().items())
    assert tracerft.evaluate(run).results["guarded"] == run.results["guarded"]
    assert guard["held_out"] == {"split": "select-id", "n": 20}
    assert guard["also_reported"] == SHIFTS
    assert {name: of["n"] for name, of in guard["sets"].items()} == dict.fromkeys(SHIFTS, 60)
    page = (run.folder / "report.html").read_text()
    assert "The choice saw images of original, colour-random, colour-flipped" in page
    assert chosen["alpha"] == next(r["alpha"] for r in front if r["accuracy"] == best and r["drops"] == chosen["drops"])
    assert "guard_student" not in page  # no loss curve


def test_a_run_cut_off_resumes_to_the_same_guard(run, small_model, digits_folder, tmp_path):
    """Log, proposal and entry, to the byte."""
    guard = LOOSE | {"suite": digits_folder}
    with pytest.raises(Cut):
        finetune(small_model, digits_folder, tmp_path, guard=guard, train=LONGER, progress=cut_at(5))
    again = finetune(small_model, digits_folder, tmp_path, guard=guard, train=LONGER, resume=True)
    assert contents(tmp_path) == contents(run.folder)
    assert again.record["guard"] == run.record["guard"]


def test_without_a_suite_nothing_changes_within_no_points(small_model, digits_folder, tmp_path):
    """Any step moves the similarity of captions, so only the start is left; the warning comes once a set."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        made = finetune(small_model, digits_folder, tmp_path / "run", guard={"max_drop": 0.0, "every": 2})
    guard, first = made.record["guard"], log(made)[0]
    assert set(guard["sets"]) == {"agreement", "text_structure"}
    assert first == {f"guard_{m}_{s}": 1.0 for m in ("student", "teacher") for s in guard["sets"]}
    texts = [str(w.message) for w in told]
    assert sum("guard set text_structure" in text for text in texts) == 1
    assert all("more than guard.max_drop 0;" in text and "\n" not in text for text in texts)
    assert guard["only_start"]
    assert guard["chosen"]["model"] == "pretrained"
    saved = load_tensors(made.folder / "guarded" / "model.safetensors")
    assert all(torch.equal(saved[n], t) for n, t in load_model(small_model).model.state_dict().items())


def test_a_rate_proposes_the_point_that_is_worth_most(run, small_model, digits_folder, tmp_path):
    """From: the front of the run with a bound, which is the same; no bound, so no warning (it would be an error)."""
    guard = {"rate": 0.3, "every": 100, "suite": digits_folder}
    made = finetune(small_model, digits_folder, tmp_path / "run", guard=guard, train=LONGER)
    entry, front = made.record["guard"], run.record["guard"]["front"]
    values = [row["accuracy"] + 0.3 * sum(row["guards"].values()) / len(SHIFTS) for row in front]
    assert [row["value"] for row in entry["front"]] == pytest.approx(values, abs=1e-12)
    assert entry["chosen"]["value"] == pytest.approx(max(values), abs=1e-12)
    assert (entry["rate"], entry["max_drop"], entry["only_start"]) == (0.3, None, False)
    assert entry["exchange"] == run.record["guard"]["exchange"]
    assert made.results["guarded"]["select-id"]["top1"] == entry["chosen"]["accuracy"]
    told = str(made).splitlines()
    assert told[-2] == f"guarded: {entry['note']}"
    assert told[-1].startswith("to take at an exchange rate of 0 to ")
    assert told[-1].count(": ") == len(entry["exchange"])
    page = (made.folder / "report.html").read_text()
    assert "guard.rate 0.3 x mean of the guard sets" in page
    assert "What to take at an exchange rate" in page
    assert "Keeps all" not in page


def make_guard(small_model, digits_folder, **options):
    """A guard of two digit splits, and another model with random weights."""
    loaded = load_model(small_model)
    suite = digit_suite(digits_folder, "coloured", None)
    given = {"max_drop": 2.0, "samples": 25, "facts": {}} | options
    sets = given.pop("sets", {"r": suite.shifts["colour-random"], "o": suite.shifts["original"]})
    return Guard(sets, suite.id, loaded.model, loaded.tokenize, **given), loaded


def test_a_drop_is_told_once_a_set_and_of_the_student_alone(small_model, digits_folder):
    """Labels are the pretrained model's own answers, so it has 100 %, and other weights have less."""
    guard, loaded = make_guard(small_model, digits_folder)
    other = load_model("tiny").model
    predictor = tracerft.evaluation.suite.Predictor({"": loaded.model}, loaded.tokenize)
    split = guard.sets["r"]
    guard.sets = {"r": replace(split, labels=predictor.logits("", split).argmax(1).numpy())}
    guesses = tracerft.evaluation.suite.Predictor({"": other}, loaded.tokenize).logits("", split).argmax(1).numpy()
    expected = float(np.mean(guesses == guard.sets["r"].labels))
    assert expected < 0.98
    assert guard.probe(1, {"student": loaded.model, "teacher": other})["guard_teacher_r"] == expected
    with pytest.warns(UserWarning, match=r"step 2: guard set r of the student is [\d.]+ points below .*\(100\.0 to"):
        assert guard.probe(2, {"student": other}) == {"guard_student_r": expected}
    guard.probe(3, {"student": other})  # a second warning would be an error


def test_a_class_head_moves_along_the_line(plain, digits_folder, small_model, tmp_path):
    """Cross-entropy: the start gets the head for the line only, and is reported as without a guard."""
    made = finetune(small_model, digits_folder, tmp_path / "run", method="ce_ft", guard={"max_drop": 100.0})
    assert made.results["pretrained"] == plain.results["pretrained"]
    found = tracerft.evaluate(made, interpolate=3).results
    half = made.record["guard"]["front"][5]
    assert (half["model"], half["alpha"]) == ("student", 0.5)
    assert (
        half["accuracy"] == found["student-wise-0.50"]["select-id"]["top1"] != found["pretrained"]["select-id"]["top1"]
    )
    assert found["guarded"] == made.results["guarded"]


def test_captions_are_guarded_by_recall_and_samples_bound_the_sets(tmp_path):
    """From: the record's recall of the same images; without a suite, the choice is made on what is reported."""
    data = image_runs.make_data(tmp_path / "data")
    guard = {"suite": data / "shifts.yaml", "max_drop": 100.0}
    made = image_runs.finetune(data / "photos", tmp_path / "run", suite=data / "shifts.yaml", guard=guard)
    last = made.record["guard"]["front"][10]
    assert (last["model"], last["alpha"]) == ("student", 1.0)
    assert last["guards"]["told"] == made.results["student"]["told"]["image_to_text_r1"]
    assert last["guards"]["sketches"] == made.results["student"]["sketches"]["top1"]
    guard |= {"suite": str(guard["suite"]), "samples": 5}
    ready = make_ready(replace(image_runs.config(data / "photos"), guard=GuardConfig(**guard)))
    entry = ready.guard.propose({}).entry
    assert [of["n"] for of in entry["sets"].values()] == [5, 5]
    assert (entry["held_out"], entry["also_reported"]) == ({"split": "id", "n": 3}, ["id"])
    assert [(row["model"], row["drops"]) for row in entry["front"]] == [("pretrained", {"sketches": 0.0, "told": 0.0})]


def test_a_guard_that_cannot_choose_is_refused(small_model, digits_folder, tmp_path):
    """Before anything is written."""
    with pytest.raises(ArgumentError, match=r"`guard` chooses on held-out images; got hold_out 0"):
        finetune(small_model, digits_folder, tmp_path / "run", guard={"max_drop": 2.0}, hold_out=0.0)
    data = image_runs.make_data(tmp_path / "data")
    with pytest.raises(ArgumentError, match=r"`guard\.suite` must name at least one shift"):
        image_runs.finetune(data / "photos", tmp_path / "run", guard={"max_drop": 2.0, "suite": data / "sketches"})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_drop": -1.0}, "`guard.max_drop` must be at least 0 points; got -1"),
        ({"max_drop": float("nan")}, "`guard.max_drop` must be at least 0 points; got nan"),
        ({"suite": "s.yaml"}, "`guard.max_drop` must be given, or guard.rate, to turn guard"),
        ({"rate": -0.5}, "`guard.rate` must be a finite number, at least 0; got -0.5"),
        ({"rate": float("inf")}, "`guard.rate` must be a finite number, at least 0; got inf"),
        ({"max_drop": 2.0, "every": 0}, "`guard.every` must be at least 1"),
        ({"max_drop": 2.0, "samples": 0}, "`guard.samples` must be at least 1"),
    ],
)
def test_values_out_of_range_are_named(values, message):
    """As all others."""
    with pytest.raises(ArgumentError, match=message):
        check(FinetuneConfig(model="m", data="d", out="o", guard=GuardConfig(**values)))
