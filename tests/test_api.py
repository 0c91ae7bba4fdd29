"""`finetune` and `evaluate`: what a run leaves and what it refuses."""

import json
import subprocess
import sys
from dataclasses import fields
from inspect import signature

import pytest
import torch
import yaml
from safetensors.torch import load_file

import tracerft
from tests.runs import STEPS, TRAIN, contents, finetune
from tracerft.api import Run, run_config
from tracerft.config import FinetuneConfig, LossConfig, TrainConfig, read_config
from tracerft.errors import ArgumentError, DataError, RunFolderError, TracerftError
from tracerft.evaluation.metrics import summarise
from tracerft.reports.run import write_run_report

SPLITS = ["id", "original", "colour-random", "colour-flipped", "select-id", "select-original"]


@pytest.fixture(scope="module")
def run(small_model, digits_folder, tmp_path_factory) -> Run:
    """TRACER, six steps."""
    return finetune(small_model, digits_folder, tmp_path_factory.mktemp("api") / "run")


def test_the_record_has_every_promised_field(run, digits_folder):
    """And is what the call returned."""
    record = json.loads((run.folder / "record.json").read_text())
    assert record == run.record
    assert {"tracerft", "status", "method", "seed", "config", "environment", "data", "steps", "seconds",
            "seconds_per_step", "results", "parameters", "pretrained_weight", "classes",
            "class_lists", "warnings", "drift"} == set(record)  # fmt: skip
    assert (record["tracerft"], record["status"]) == (tracerft.__version__, "finished")
    assert (record["method"], record["seed"], record["steps"]) == ("tracer", 0, STEPS)
    assert set(record["drift"]) == {"student", "teacher"}
    assert 0 < record["drift"]["teacher"]["visual.blocks.0"] < record["drift"]["student"]["visual.blocks.0"]
    assert record["config"]["data"] == str(digits_folder)
    assert list(record["data"]) == ["train", *SPLITS]
    assert [d["n"] for d in record["data"].values()] == [180, 60, 60, 60, 60, 20, 20]
    assert all(len(d["sha256"]) == 64 for d in record["data"].values())
    assert [len(names) for names in record["class_lists"]] == [2, 10]  # coloured by parity, and grey
    assert [d.get("class_list") for d in record["data"].values()] == [None, 0, 1, 0, 0, 0, 1]
    assert 0 < record["pretrained_weight"] < 1
    assert record["seconds"] > 0


def test_results_have_every_model_split_and_metric(run):
    """Fractions, with an interval around top-1."""
    assert list(run.results) == ["pretrained", "student", "teacher"]
    promised = {"n", "top1", "top1_ci95", "top5", "mean_per_class", "ece_10", "ece_15", "ece_per_batch_10", "nll",
                "brier"}  # fmt: skip
    for splits in run.results.values():
        assert list(splits) == SPLITS
        for metrics in splits.values():
            assert promised <= set(metrics)
            low, high = metrics["top1_ci95"]
            assert 0 <= low <= metrics["top1"] <= high <= 1


def test_the_folder_is_what_the_documentation_says(run):
    """Configuration, log, last checkpoints, models, predictions, report."""
    names = {p.name for p in run.folder.iterdir()}
    assert names == {"config.yaml", "metrics.jsonl", "checkpoints", "student", "teacher", "predictions", "report.html",
                     "record.json"}  # fmt: skip
    assert [p.name for p in sorted((run.folder / "checkpoints").iterdir())] == ["step-00000005", "step-00000006"]
    assert yaml.safe_load((run.folder / "config.yaml").read_text()) == run.record["config"]


def test_metrics_are_those_of_the_kept_predictions(run):
    """Logits and labels give the record's numbers again."""
    kept = load_file(run.folder / "predictions" / "student" / "original.safetensors")
    assert kept["logits"].shape == (60, 10)
    assert summarise(kept["logits"], kept["labels"]) == run.results["student"]["original"]


def test_student_and_teacher_load_and_differ(run, small_model):
    """And neither is the start."""
    student, teacher, start = (
        tracerft.load_model(f).model.visual.proj for f in (run.folder, run.folder / "teacher", small_model)
    )
    assert not torch.equal(student, teacher)
    assert not torch.equal(student, start)
    assert not torch.equal(teacher, start)


def test_the_same_call_gives_the_same_run(run, small_model, digits_folder, tmp_path):
    """Bitwise; another seed does not."""
    assert contents(finetune(small_model, digits_folder, tmp_path / "a").folder) == contents(run.folder)
    other = finetune(small_model, digits_folder, tmp_path / "b", train={"seed": 1})
    assert contents(other.folder) != contents(run.folder)


def test_evaluate_gives_the_record_again_and_the_line_between(run):
    """All splits of the record, selection ones included; both ends equal, one point between."""
    found = tracerft.evaluate(run, interpolate=3).results
    assert set(found) == {"pretrained", "student", "teacher", "student-wise-0.50", "teacher-wise-0.50"}
    for name in ("pretrained", "student", "teacher"):
        assert found[name] == run.results[name]
    assert list(found["student-wise-0.50"]) == SPLITS
    assert found["student-wise-0.50"] not in (found["pretrained"], found["student"])
    assert set(tracerft.evaluate(str(run.folder)).results) == set(run.results)


def test_evaluate_of_a_bare_model(run, digits_folder, small_model):
    """One model called `model`, on the four splits of the suite."""
    found = tracerft.evaluate(small_model, digits_folder).results
    assert found == {"model": {s: run.results["pretrained"][s] for s in SPLITS[:4]}}
    found = tracerft.evaluate(run.folder / "student", digits_folder).results["model"]
    assert found == {s: run.results["student"][s] for s in SPLITS[:4]}


def test_evaluate_on_another_suite(run, digits_folder):
    """The run's models on the folder that is named; no selection splits there."""
    found = tracerft.evaluate(run, digits_folder).results["teacher"]
    assert found == {s: run.results["teacher"][s] for s in SPLITS[:4]}


def test_two_runs_answer_the_same_images(run, small_model, digits_folder, tmp_path):
    """Each model as alone, under its run's name, in the order of the call; nothing held out for choosing."""
    other = finetune(small_model, digits_folder, tmp_path / "b" / "flyp", method="flyp")
    found = tracerft.evaluate(run, against=other)
    expected = {f"run/{n}": r for n, r in run.results.items()} | {f"flyp/{n}": r for n, r in other.results.items()}
    assert list(found.results) == list(expected)
    assert found.results == {n: {s: of[s] for s in SPLITS[:4]} for n, of in expected.items()}
    assert list(found.answers["id"].guesses) == list(expected)
    assert tracerft.evaluate(run, digits_folder, against=other.folder).results == found.results


def test_runs_of_one_name_are_told_apart_by_their_folders(run, small_model, digits_folder, tmp_path):
    """As many parts as it takes."""
    other = finetune(small_model, digits_folder, tmp_path / "b" / "run", method="flyp")
    names = list(tracerft.evaluate(run, against=other).results)
    assert names[0] == f"{run.folder.parent.name}/run/pretrained"
    assert names[-1] == "b/run/student"


def test_runs_that_cannot_be_compared_are_refused(run, small_model, digits_folder, tmp_path):
    """The same one, no run, other classes."""
    with pytest.raises(ArgumentError, match="`against` must be another run"):
        tracerft.evaluate(run, against=run.folder / ".." / "run")
    with pytest.raises(ArgumentError, match="small is none; give the folders of finished runs"):
        tracerft.evaluate(run, against=small_model)
    grey = finetune(small_model, digits_folder, tmp_path / "run", method="flyp", digits={"task": "grey"})
    with pytest.raises(ArgumentError, match="`against` must have the classes of the first run, a red"):
        tracerft.evaluate(run, against=grey)


@pytest.mark.parametrize("points", [-1, 1])
def test_a_line_needs_two_points(points, run):
    """Or none."""
    with pytest.raises(ArgumentError, match="must be 0 or at least 2 points"):
        tracerft.evaluate(run, interpolate=points)


def test_an_unfinished_run_is_not_evaluated(run, tmp_path):
    """The error tells how to finish it."""
    (tmp_path / "config.yaml").write_bytes((run.folder / "config.yaml").read_bytes())
    with pytest.raises(DataError, match="not finished; go on with `tracerft finetune --resume"):
        tracerft.evaluate(tmp_path)


def test_runs_print_as_tables(run):
    """Every model and split."""
    for text in (str(run), str(tracerft.evaluate(run))):
        assert all(word in text for word in ("pretrained", "student", "teacher", "colour-flipped"))


def test_a_folder_in_use_is_refused_and_left_alone(run, small_model, digits_folder):
    """Whatever is in it."""
    before = contents(run.folder)
    with pytest.raises(RunFolderError, match=r"exists and is not empty; choose another --out"):
        finetune(small_model, digits_folder, run.folder)
    assert contents(run.folder) == before


def test_a_folder_that_cannot_be_made_is_named(small_model, digits_folder, tmp_path):
    """A file is in the way."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be written"):
        finetune(small_model, digits_folder, tmp_path / "file" / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": {"steps": 0}}, r"`train\.steps` must be at least 1"),
        ({"train": {"batch_size": 1}}, r"`train\.batch_size` must be at least 2"),
        ({"train": {"batch_size": 181}}, r"180 samples, less than one batch of 181"),
        ({"train": {"lrr": 1}}, r"unknown option `train\.lrr` \(did you mean 'lr'\?\)"),
        ({"loss": {"sd_weigth": 1}}, r"unknown option `loss\.sd_weigth` \(did you mean 'sd_weight'\?\)"),
        ({"method": "flyp", "loss": {"sd_weight": 1.0}}, r"`method` flyp does not read loss\.sd_weight"),
        ({"method": "wise"}, r"did you mean 'wise_ft'\?"),
        ({"freeze": "both"}, r"`freeze` must be none, text or image"),
        ({"digits": {"task": "color"}}, r"`digits\.task` must be one of"),
        ({"digits": {"count": 500}}, r"digits\.count=500 do not fit a set of 200 digits"),
        ({"teacher": {"momentum": 0.5}}, r"does not read teacher\.momentum"),
        ({"loss": LossConfig(l2_sp=0.5)}, r"does not read loss\.l2_sp; leave out what it does not use"),
        ({"probe": "lbfgs"}, r"does not read probe"),
        ({"teacher": {"a": -1.0}}, r"`a`"),
        ({"loss": {"targets": "both"}}, r"targets"),
    ],
)
def test_a_mistake_is_told_before_a_folder_is_made(options, message, small_model, digits_folder, tmp_path):
    """In one line."""
    with pytest.raises(TracerftError, match=message) as caught:
        finetune(small_model, digits_folder, tmp_path / "run", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_data_that_is_no_folder_is_named(small_model, tmp_path):
    """With what is expected."""
    with pytest.raises(DataError, match="does not exist; expected images"):
        finetune(small_model, tmp_path / "none", tmp_path / "run")


def test_groups_are_mappings_or_dataclasses(run, small_model, digits_folder, tmp_path):
    """The same run from both."""
    again = tracerft.finetune(small_model, data=digits_folder, out=tmp_path / "run", train=TrainConfig(**TRAIN))
    assert contents(again.folder) == contents(run.folder)


def test_every_option_is_a_keyword():
    """None is forgotten when the configuration grows."""
    assert {f.name for f in fields(FinetuneConfig)} <= set(signature(tracerft.finetune).parameters)


def test_a_whole_configuration_may_hold_what_its_method_does_not_read(small_model, digits_folder, tmp_path):
    """A study's or a preset's values for other methods: only what a user typed can be a mistake."""
    given = {"model": str(small_model), "data": str(digits_folder), "out": str(tmp_path / "run"), "method": "flyp"}
    run = run_config(FinetuneConfig(**given, train=TrainConfig(**TRAIN), loss=LossConfig(fd=3.0)))
    assert run.record["config"]["loss"]["fd"] == 3.0


def test_examples_are_in_the_report_and_can_be_added_or_left_out(run, small_model, digits_folder, tmp_path):
    """With 0 none are kept; `evaluate` gives an older run the same bytes as if it had kept them; numbers stay."""
    bare = finetune(small_model, digits_folder, tmp_path / "bare", examples=0)
    assert contents(bare.folder) == {n: of for n, of in contents(run.folder).items() if "examples" not in n}
    assert "data:image/jpeg" not in (bare.folder / "report.html").read_text()
    tracerft.evaluate(bare, predictions=bare.folder / "predictions")
    assert not (bare.folder / "predictions" / "examples").exists()
    config = (bare.folder / "config.yaml").read_text()
    (bare.folder / "config.yaml").write_text(config.replace("examples: 0\n", ""))  # as written before there were any
    tracerft.evaluate(bare, predictions=bare.folder / "predictions")
    assert contents(bare.folder) == contents(run.folder)
    for page in (write_run_report(bare.folder), run.folder / "report.html"):
        assert "data:image/jpeg" in page.read_text()


def test_epochs_count_full_batches(small_model, digits_folder, tmp_path):
    """180 samples, batches of 50: three steps an epoch."""
    train = {"steps": None, "epochs": 2, "batch_size": 50}
    assert finetune(small_model, digits_folder, tmp_path / "run", train=train).record["steps"] == 6


@pytest.mark.parametrize("task", ["grey", "coloured-digits"])
def test_the_other_tasks_run(task, small_model, digits_folder, tmp_path):
    """With their own splits."""
    run = finetune(small_model, digits_folder, tmp_path / "run", method="flyp", hold_out=0.0, digits={"task": task})
    expected = ["id"] if task == "grey" else SPLITS[:4]
    assert list(run.results["student"]) == expected
    assert tracerft.evaluate(run).results == run.results


def test_a_run_can_start_from_a_run(run, digits_folder, tmp_path):
    """From its student."""
    second = finetune(run.folder, digits_folder, tmp_path / "run", method="flyp")
    assert second.results["pretrained"] == run.results["student"]


def test_learnable_digits_are_learnt(digits_folder, tmp_path):
    """The whole way works: 40 steps on ten noisy patterns in grey."""
    train = {"steps": 40, "batch_size": 32, "lr": 2e-3, "checkpoint_every": 0, "probe_every": 0}
    run = finetune("tiny:random", digits_folder, tmp_path / "run", train=train, digits={"task": "grey"},
                   loss={"targets": "multi_positive"})  # fmt: skip
    assert run.results["student"]["id"]["top1"] > 0.9
    assert run.results["pretrained"]["id"]["top1"] < 0.4


@pytest.mark.parametrize(
    "text", ["[1, 2]", "model: a", "train: {lrr: 1}\nmodel: a\ndata: b\nout: c", "a: !!python/name:os.x"]
)
def test_a_config_edited_by_hand_is_a_data_error(text, tmp_path):
    """One line with the file."""
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(DataError, match="was it edited by hand") as caught:
        read_config(tmp_path / "config.yaml")
    assert "\n" not in str(caught.value)


def test_the_public_names_are_there_and_importing_them_is_lazy():
    """About fifteen; `import tracerft` alone loads no torch."""
    assert all(getattr(tracerft, name) is not None for name in tracerft.__all__)
    assert set(tracerft.__all__) <= set(dir(tracerft))
    with pytest.raises(AttributeError, match="no attribute 'finetun'"):
        tracerft.finetun  # noqa: B018
    code = "import sys, tracerft; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_run_cut_off_between_record_and_report_gets_its_report(small_model, digits_folder, tmp_path):
    """By resuming it; nothing else is made again."""
    run = finetune(small_model, digits_folder, tmp_path / "run", train={"steps": 1})
    before = {p: p.stat().st_mtime_ns for p in run.folder.rglob("*") if p.is_file()}
    (run.folder / "report.html").unlink()
    finetune(small_model, digits_folder, tmp_path / "run", train={"steps": 1}, resume=True)
    after = {p: p.stat().st_mtime_ns for p in run.folder.rglob("*") if p.is_file()}
    assert after.keys() == before.keys()
    assert {p for p in after if after[p] != before[p]} == {run.folder / "report.html"}
