"""Trackers follow what a run logs and never change or lose it."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

from tests.runs import STEPS, Cut, cut_at, finetune
from tracerft import running
from tracerft.errors import ArgumentError, MissingExtraError
from tracerft.training import loggers


@pytest.fixture(autouse=True)
def _no_report(monkeypatch):
    monkeypatch.setattr(running, "write_run_report", lambda folder: (folder / "report.html").write_text(""))


def lines(folder) -> dict[int, dict[str, float]]:
    """metrics.jsonl by step."""
    found = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len({line["step"] for line in found}) == len(found)
    return {line.pop("step"): line for line in found}


def events(folder) -> dict[str, list[tuple[int, float]]]:
    """Scalars as TensorBoard's own reader shows them, purged steps left out."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    reader = accumulator.EventAccumulator(str(folder / "tensorboard"))
    reader.Reload()
    return {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def test_tensorboard_shows_metrics_jsonl_and_each_step_once(small_model, digits_folder, tmp_path):
    """Cut after step 5 with a checkpoint at 3: steps 4 and 5 are taken again; float32 is what an event holds."""
    pytest.importorskip("tensorboard")
    options = {"train": {"checkpoint_every": 3}, "log": "tensorboard"}
    with pytest.raises(Cut):
        finetune(small_model, digits_folder, tmp_path, progress=cut_at(5), **options)
    run = finetune(small_model, digits_folder, tmp_path, resume=True, **options)
    found, logged = events(tmp_path), lines(tmp_path)
    assert [step for step, _ in found["loss"]] == list(range(1, STEPS + 1))
    for name in {name for line in logged.values() for name in line}:
        wanted = [(step, line[name]) for step, line in logged.items() if name in line]
        assert [step for step, _ in found[name]] == [step for step, _ in wanted]
        assert [value for _, value in found[name]] == pytest.approx([value for _, value in wanted], rel=1e-6)
    top1 = run.results["teacher"]["id"]["top1"]
    assert found["results/teacher/id/top1"] == [(STEPS, pytest.approx(top1, rel=1e-6))]


@pytest.mark.parametrize("when", ["open", "write", "results", "close"])
def test_a_failing_logger_changes_nothing(when, small_model, digits_folder, tmp_path, monkeypatch):
    """One warning; log and results are those of a run without it, which may also be resumed with another `log`."""

    class Broken:
        def __init__(self, folder, config, start):
            self.act("open")

        def act(self, now):
            if now == when:
                raise OSError("no route")

        write = results = lambda self, *_: None

        def close(self):
            self.act("close")

    for name in ("write", "results"):
        setattr(Broken, name, lambda self, *_, name=name: self.act(name))
    monkeypatch.setitem(loggers.LOGGERS, "json", Broken)  # a package that is surely there
    plain = finetune(small_model, digits_folder, tmp_path / "plain")
    with pytest.warns(UserWarning, match="logger json failed and is left out: no route") as told:
        run = finetune(small_model, digits_folder, tmp_path / "run", log="json")
    assert len(told) == 1
    assert run.results == plain.results
    for name in ("metrics.jsonl", "student/model.safetensors"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_what_cannot_be_followed_is_said_before_anything_is_read(small_model, digits_folder, tmp_path, monkeypatch):
    """Unknown, twice, not installed."""
    for log, kind, says in (
        ("wandbb", ArgumentError, "did you mean 'wandb'"),
        ("mlflow,mlflow", ArgumentError, "each tracker once"),
        ("absent", MissingExtraError, "pip install absent"),
    ):
        if log == "absent":
            monkeypatch.setitem(loggers.LOGGERS, "absent", loggers.Wandb)
        elif log.startswith("mlflow"):
            monkeypatch.setattr(loggers, "find_spec", lambda name: object())
        with pytest.raises(kind, match=says):
            finetune(small_model, digits_folder, tmp_path / "run", log=log)
        monkeypatch.undo()
    assert not (tmp_path / "run").exists()


class Calls:
    """A module that records calls; parameters are those of wandb 0.31, mlflow 3.18 and trackio 0.43."""

    def __init__(self, monkeypatch, name):
        self.told, self.summary, self.id = [], {}, "id-1"
        self.info = SimpleNamespace(run_id="id-1")
        module = ModuleType(name)
        for part in ("init", "set_experiment", "start_run", "log_params", "log_metrics", "end_run"):
            setattr(module, part, lambda *a, part=part, **k: self.told.append((part, a, k)) or self)
        point = [SimpleNamespace(step=3)]
        module.MlflowClient = lambda: SimpleNamespace(get_metric_history=lambda run_id, key: point)
        monkeypatch.setitem(sys.modules, name, module)

    def log(self, data, step=None):
        """Of wandb and trackio."""
        self.told.append(("log", data, step))

    def finish(self):
        """Likewise."""
        self.told.append(("finish",))


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_other_trackers_are_told_the_same_and_resume_by_their_id(name, monkeypatch, tmp_path):
    """Opened twice, as a resumed run does; MLflow is not told again of steps that it has."""
    monkeypatch.setattr(loggers, "find_spec", lambda name: object())
    calls = Calls(monkeypatch, name)
    for steps in ((1, 2, 3), (3, 4)):
        followers = loggers.Followers(name, tmp_path, {"train.lr": 0.1}, steps[0])
        for step in steps:
            followers.write(step, {"loss": float(step)})
        followers.results({"student": {"id": {"top1": 0.5, "metric": "macro_f1"}}})
        followers.close()
    opened = [told[-1] for told in calls.told if told[0] in ("init", "start_run")]
    if name == "mlflow":
        assert opened == [{"run_name": tmp_path.name}, {"run_id": "id-1"}]
        sent = [(t[1][0]["loss"], t[2]["step"]) for t in calls.told if t[0] == "log_metrics" and "step" in t[2]]
        assert sent == [(1.0, 1), (2.0, 2), (3.0, 3), (4.0, 4)]
        assert ("log_metrics", ({"results/student/id/top1": 0.5},), {}) in calls.told
        return
    assert [o["resume"] for o in opened] == ["allow", "allow"]
    assert opened[0]["config"] == {"train.lr": 0.1}
    sent = [(t[1]["loss"], t[2]) for t in calls.told if t[0] == "log" and "loss" in t[1]]
    assert sent == [(1.0, 1), (2.0, 2), (3.0, 3), (3.0, 3), (4.0, 4)]
    if name == "wandb":
        assert [o["id"] for o in opened] == [None, "id-1"]
        assert calls.summary == {"student/id/top1": 0.5}
