"""The guide to a method of one's own runs as it is printed, and its method resumes exactly."""

import json
import re
from pathlib import Path

import pytest

from tests.runs import Cut, contents, cut_at, finetune

GUIDE = Path(__file__).parents[2] / "docs" / "new-method.md"


def program() -> str:
    """The guide's one block of Python."""
    (block,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    return block


def test_the_guide_runs_as_printed(tmp_path, monkeypatch, capsys):
    """From the first line to the table."""
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(compile(program(), str(GUIDE), "exec"), found)
    assert found["run"].record["method"] == "keep_cosine"
    assert "student" in capsys.readouterr().out
    assert (tmp_path / "runs" / "keep-cosine" / "report.html").is_file()


def test_its_method_is_short_holds_and_resumes(small_model, digits_folder, tmp_path):
    """Thirty lines of code; a strong weight keeps the embeddings; a cut run goes on to the same bytes."""
    text = program()
    code = [x for x in text[text.index("class ") : text.index("run = ")].splitlines() if x.strip()]
    assert len(code) <= 30
    found = {}
    exec(compile(text[: text.index("run = ")], str(GUIDE), "exec"), found)
    method = found["KeepCosine"]
    turned = {}
    for weight in (0.0, 100.0):
        run = finetune(small_model, digits_folder, tmp_path / f"w{weight}", method=method(weight))
        turned[weight] = _last(run.folder, "turned")
    assert turned[100.0] < turned[0.0]
    with pytest.raises(Cut):
        finetune(small_model, digits_folder, tmp_path / "cut", method=method(100.0), progress=cut_at(3))
    finetune(small_model, digits_folder, tmp_path / "cut", method=method(100.0), resume=True)
    assert contents(tmp_path / "cut") == contents(tmp_path / "w100.0")


def _last(folder, key):
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])[key]
