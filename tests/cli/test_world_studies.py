"""Studies on any data, from the command: which folders and numbers reach them."""

from pathlib import Path

import pytest

from tracerft.cli import study, world_studies
from tracerft.errors import ArgumentError
from tracerft.studies import ablations, any_world, compare, cost, dynamics, recipe, similarity

MODULES = {
    "ablations": ablations, "compare": compare, "cost": cost, "dynamics": dynamics, "recipe": recipe,
    "similarity": similarity,
}  # fmt: skip


@pytest.fixture
def called(monkeypatch):
    """What the study and the builder of worlds were called with."""
    seen = {}

    def world_of(out, **options):
        seen["world"] = {"out": out, **options}
        return "a world"

    def run(out, world, **options):
        seen["study"] = {"out": out, "world": world, **options}
        return out / "report.html"

    monkeypatch.setattr(any_world, "world_of", world_of)
    for module in MODULES.values():
        monkeypatch.setattr(module, "run", run)
    return seen


@pytest.mark.parametrize("name", ["ablations", "cost", "dynamics", "recipe", "similarity"])
def test_a_figure_lies_beside_the_runs_that_all_share(name, called):
    """Runs in --out, the report in a folder of the study's name; digits and quick by default."""
    report = world_studies.run(name, ["--out", "there", "--seeds", "2", "--workers", "3"], "said")
    assert report == Path("there") / name / "report.html"
    world = called["world"]
    assert (world["out"], world["data"], world["size"]) == (Path("there"), "digits", "quick")
    assert (world["seeds"], world["workers"]) == (2, 3)
    given = called["study"]
    assert (given["world"], given["seeds"], given["command"]) == ("a world", 2, "said")
    assert given.get("workers") == (None if name == "cost" else 3)


def test_the_comparison_keeps_its_report_with_its_runs(called):
    """And needs data."""
    options = ["--data", "photos", "--suite", "s.yaml", "--methods", "flyp, tracer", "--budget", "3", "--finished"]
    assert world_studies.run("compare", options, "said") == Path("runs/compare/report.html")
    assert called["study"]["methods"] == ("flyp", "tracer")
    assert (called["study"]["budget"], called["study"]["only_finished"]) == (3, True)
    assert (called["world"]["data"], called["world"]["suite"]) == ("photos", "s.yaml")
    with pytest.raises(ArgumentError, match="data"):
        world_studies.run("compare", [], "said")


@pytest.mark.parametrize("name", MODULES)
def test_every_study_is_listed_and_tells_its_options(name, capsys):
    """In the list of studies, and by --help."""
    study.run(["--help"])
    assert f"  {name} " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        study.run([name, "--help"])
    assert "--workers" in capsys.readouterr().out


def test_the_world_is_what_the_data_ask_for(tmp_path, digits_folder):
    """Digits by name or folder, else one's own data with the numbers given."""
    options = {
        "suite": None, "model": "tiny", "templates": "simple", "size": "quick", "steps": 7, "batch_size": 8, "lr": 0.1,
        "seeds": 2, "workers": 1,
    }  # fmt: skip
    digits = any_world.world_of(tmp_path, data="digits", **options)
    assert (digits.axes, digits.starts, digits.base.train.steps) == (("coloured", "original"), ["tiny"] * 2, 168)
    assert any_world.world_of(tmp_path, data=str(digits_folder), **options).base.data == str(digits_folder)
    own = any_world.world_of(tmp_path, data="photos", **options)
    assert (own.axes, own.base.train.steps, own.base.train.lr, own.base.model) == (("task", "shifts"), 7, 0.1, "tiny")
