"""Finished runs become one page and three tables."""

import csv
import json
import re

import pytest

from tests.reports.example import HOSTILE, record, scores, write_run
from tests.reports.test_html import Reader
from tracerft.cli.main import run as command
from tracerft.errors import ArgumentError, DataError, RunFolderError, ShapeError
from tracerft.reports.compared import differences, legend_names, read_runs, rows_of, warnings_of
from tracerft.reports.comparison import write_comparison
from tracerft.reports.tables import csv_text, latex

FILES = ("comparison.html", "table.md", "table.csv", "table.tex")


def write(folder, *, student=0.9, digest="aa", lr=1e-5, **changes):
    """A finished run with a start, a student, a point between them and two shifts."""
    write_run(folder)
    value = record()
    value["results"] = {
        "pretrained": {"id": scores(0.8), "far": scores(0.6), "near": scores(0.7), "select-id": scores(0.1)},
        "student": {"id": scores(student), "far": scores(0.5), "near": scores(student - 0.1)},
        "student-wise-0.50": {"id": scores(0.85), "far": scores(0.65), "near": scores(0.75)},
    }
    value["data"] = {split: {"n": 500, "sha256": digest * 32} for split in ("train", "id", "far", "near")}
    value["config"]["train"]["lr"] = lr
    value["classes"] = list(HOSTILE)
    (folder / "record.json").write_text(json.dumps(value | changes))
    return folder


def page(out):
    """The page as a reader sees it."""
    return Reader((out / "comparison.html").read_text(encoding="utf-8"))


def test_runs_become_a_page_and_tables_with_the_pretrained_model_once(tmp_path):
    """Means by hand: (60 + 70) / 2 and (50 + 85) / 2; the selection split is no result."""
    folders = [write(tmp_path / "a"), write(tmp_path / "b", student=0.95, lr=3e-5)]
    data = write_comparison(folders, tmp_path / "out")
    assert sorted(FILES) == sorted(p.name for p in (tmp_path / "out").iterdir())
    with (tmp_path / "out" / "table.csv").open(newline="") as file:
        rows = {row["Model"]: row for row in csv.DictReader(file)}
    names = ["pretrained", "a: student", "a: student-wise-0.50", "b: student", "b: student-wise-0.50"]
    assert list(rows) == names
    assert [float(rows[n]["mean of shifts, %"]) for n in names] == pytest.approx([65.0, 65.0, 70.0, 67.5, 70.0])
    assert [float(rows[n]["ECE id, %"]) for n in names] == pytest.approx([3.1] * 5)
    assert data["shifts"] == ["far", "near"]
    assert not data["warnings"]
    read = page(tmp_path / "out")
    assert not read.wrong
    assert len(read.all("svg")) == 2
    for text in ("Best on id: b: student, 95.0\xa0%.", "same images (equal sha256", "train.lr", "3e-05", "1 min 1 s"):
        assert text in read.words
    assert "select-id" not in read.words
    assert "**95.0**" in (tmp_path / "out" / "table.md").read_text()
    assert r"b: student & \textbf{95.0} & 50.0 & \textbf{85.0}" in (tmp_path / "out" / "table.tex").read_text()


def test_what_spoils_a_comparison_is_said(tmp_path):
    """Other images, images unknown, a split that one lacks, other classes, and another pretrained model."""
    one, two = write(tmp_path / "a"), write(tmp_path / "b", digest="bb", classes=["x"])
    value = json.loads((two / "record.json").read_text())
    del value["data"]["near"], value["results"]["student"]["far"], value["results"]["pretrained"]["far"]
    del value["results"]["student-wise-0.50"]["far"]
    (two / "record.json").write_text(json.dumps(value))
    runs = read_runs([one, two])
    assert warnings_of(runs) == [
        "Not the same images on id: a | b.",
        "Not evaluated on far: b.",
        "Not known to be the same images on near: b kept no sha256.",
        "The runs have other classes or another order of them.",
    ]
    rows = {row.label: row for row in rows_of(runs)}
    assert {"a: pretrained", "b: pretrained"} <= set(rows)
    assert rows["a: student"].shifts == pytest.approx(0.8)  # over near alone, which both have
    write_comparison([one, two], tmp_path / "out")
    assert "Warning: Not the same images on id: a | b." in page(tmp_path / "out").words


def test_a_split_is_judged_by_its_own_measure(tmp_path):
    """Macro F1 where the record says so, recall at 1 where the split is retrieved."""
    folder = write(tmp_path / "a")
    value = json.loads((folder / "record.json").read_text())
    value["results"] = {"m": {"id": {**scores(0.9), "metric": "macro_f1", "macro_f1": 0.4}}}
    value["results"]["m"]["r"] = {"n": 3, "image_to_text_r1": 0.25}
    (folder / "record.json").write_text(json.dumps(value))
    assert rows_of(read_runs([folder]))[0].splits == {"id": 0.4, "r": 0.25}
    write_comparison([folder], tmp_path / "out")
    assert "Same images?" not in page(tmp_path / "out").words


def test_fronts_of_guards_have_a_figure_of_their_own(tmp_path):
    """One line from the start over the points, the proposed one with a star."""
    front = [
        {"model": m, "alpha": a, "accuracy": 0.5 + a / 4, "guards": {"x": 1 - a / 2}, "keeps": True}
        for m, a in (("pretrained", 0.0), ("student", 0.5), ("student", 1.0))
    ]
    write_comparison([write(tmp_path / "a", guard={"front": front, "chosen": front[1]})], tmp_path / "out")
    read = page(tmp_path / "out")
    assert "Guard fronts" in read.words
    assert len(read.all("svg")) == 3


def test_hostile_names_stay_text_everywhere(tmp_path):
    """Run, split and class names in HTML, Markdown, CSV and LaTeX."""
    folder = write(tmp_path / "=cmd|' \\input{x} $<script>alert(1)<")
    value = json.loads((folder / "record.json").read_text())
    value["results"]["student"][HOSTILE[0]] = scores(0.5)
    value["data"][HOSTILE[1]] = {"n": 1}
    (folder / "record.json").write_text(json.dumps(value))
    write_comparison([folder, write(tmp_path / "b")], tmp_path / "out")
    read = page(tmp_path / "out")
    assert not read.wrong
    assert len(read.all("script")) == 2
    assert not read.all("img")
    assert HOSTILE[0] in read.words
    assert "<script" not in (tmp_path / "out" / "table.md").read_text()
    assert not re.search(r"^=", (tmp_path / "out" / "table.csv").read_text(), re.MULTILINE)
    text = (tmp_path / "out" / "table.tex").read_text()
    assert r"\textbackslash{}input\{x\} \$\textless{}script\textgreater{}" in text
    assert r"\input" not in text


def test_runs_must_be_finished_and_different_and_out_no_run(tmp_path):
    """One line each, and nothing is written."""
    folder = write(tmp_path / "a")
    with pytest.raises(ArgumentError, match="twice; name each once"):
        write_comparison([folder, tmp_path / "x" / ".." / "a"], tmp_path / "out")
    with pytest.raises(DataError, match="has not finished"):
        write_comparison([folder, tmp_path / "none"], tmp_path / "out")
    with pytest.raises(RunFolderError, match="another folder"):
        write_comparison([folder], folder)
    assert not (tmp_path / "out").exists()


def test_names_tell_runs_apart(tmp_path):
    """As many parts of the path as it takes; legends fall back to numbers where the middle was all that differed."""
    folders = [write(tmp_path / top / "seed0") for top in ("a", "b")]
    assert [run.name for run in read_runs(folders)] == ["a/seed0", "b/seed0"]
    alike = [write(tmp_path / f"the-longest-{x}-name-of-all-runs") for x in "xy"]
    assert list(legend_names(read_runs(alike)).values()) == ["run 1", "run 2"]
    assert list(legend_names(read_runs(alike[:1])).values()) == ["the-longes…f-all-runs"]
    assert differences(read_runs([folders[0], write(tmp_path / "c", lr=1.0)])) == {"train.lr": [1e-5, 1.0]}


def test_the_command_prints_a_table_or_json(tmp_path, capsys):
    """Exit 0 both ways; a warning goes to the warnings."""
    folders = [str(write(tmp_path / "a")), str(write(tmp_path / "b", digest="bb"))]
    arguments = ["compare", *folders, "--out", str(tmp_path / "out")]
    with pytest.warns(UserWarning, match="Not the same images"):
        assert command(arguments) == 0
    assert str(tmp_path / "out" / "comparison.html") in capsys.readouterr().out.replace("\n", "")
    with pytest.warns(UserWarning, match="Not the same images"):
        assert command([*arguments, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["rows"][0]["model"] == "pretrained"
    assert len(data["warnings"]) == 3


def test_csv_and_latex_cells():
    """By the rules of RFC 4180 and of LaTeX's ten special characters."""
    assert csv_text(["a", "b"], [['x,"y"', 12.34567891], ["-1+1", None]]) == 'a,b\n"x,""y""",12.3457\n\'-1+1,\n'
    text = latex(["N", "%"], [["a_b\\c", "−1.0"], ["[x]~^", None]], [[False, True], [False, False]])
    assert text.splitlines()[0] == r"\begin{tabular}{lr}"
    assert text.splitlines()[4:6] == [
        r"a\_b\textbackslash{}c & \textbf{$-$1.0} \\",
        r"{[}x{]}\textasciitilde{}\textasciicircum{} & -- \\",
    ]
    for table in (csv_text, latex):
        with pytest.raises(ShapeError, match="must have 2 cells"):
            table(["a", "b"], [["x"]])
