"""What earlier versions wrote is read, evaluated and gone on with. The golden values are the records they wrote."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import tracerft
from tests.runs import finetune
from tracerft.cli.main import run
from tracerft.models.weights import load_model
from tracerft.reports.record import read_record
from tracerft.reports.run import write_run_report

HERE = Path(__file__).parent
VERSIONS = sorted(p.parent.name for p in HERE.glob("*/model"))
TOLERANCE = 1e-4


@pytest.fixture(params=VERSIONS)
def old(request, tmp_path, monkeypatch) -> Path:
    """A copy of what one version left, with its folder as the current one, since the runs name relative paths."""
    folder = shutil.copytree(HERE / request.param, tmp_path / "old")
    monkeypatch.chdir(folder)
    return folder


def assert_alike(new, golden) -> None:
    """Same models, splits and metrics, numbers to `TOLERANCE`."""
    assert new.keys() == golden.keys()
    for key, value in golden.items():
        if isinstance(value, dict):
            assert_alike(new[key], value)
        elif value is None:
            assert new[key] is None, key
        else:
            assert new[key] == pytest.approx(value, rel=TOLERANCE, abs=TOLERANCE), key


def golden() -> dict:
    """Results as the old version wrote them, read without our reader."""
    return json.loads(Path("finished/record.json").read_text())["results"]


def steps(run: str) -> list[int]:
    """The steps that a run logged."""
    return [json.loads(line)["step"] for line in Path(run, "metrics.jsonl").read_text().splitlines()]


def test_there_is_a_folder_of_this_series():
    """A release series without a folder would be tested by nothing."""
    series = ".".join(tracerft.__version__.split(".")[:2])
    assert [v for v in VERSIONS if v.startswith(f"{series}.")], f"run python -m tests.compat.make for {series}"


def test_model_is_loaded(old):
    """The weights are those in the file, read by numpy; a run folder gives its student."""
    for spec, file in (("model", "model"), ("finished", "finished/student")):
        state, golden = load_model(spec).model.state_dict(), load_file(f"{file}/model.safetensors")
        assert state.keys() == golden.keys()
        for name, values in golden.items():
            np.testing.assert_array_equal(state[name].numpy(), values)


def test_finished_run_is_read_and_evaluated(old):
    """Record and report are read; evaluating again gives the numbers of then."""
    record = read_record(Path("finished"))
    assert record["results"] == golden()
    assert write_run_report(Path("finished")).stat().st_size > 10_000
    assert_alike(tracerft.evaluate("finished").results, golden())


def test_cut_off_run_is_resumed_to_its_end(old):
    """It ends as the run that was not cut off, through the API and through the command alike."""
    shutil.copytree("cut", "other")
    model, data, out = (Path(name) for name in ("model", "digits", "cut"))
    assert_alike(finetune(model, data, out, resume=True).results, golden())
    assert steps("cut") == steps("finished")
    assert run(["finetune", "--resume", "other", "--json"]) == 0
    assert_alike(read_record(Path("other"))["results"], golden())
