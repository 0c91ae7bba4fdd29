"""A folder of a study or a run becomes one page."""

import json
import statistics
import subprocess
import sys

import pytest

from tests.reports.example import HOSTILE, record, study, write_run, write_study
from tests.reports.test_html import Reader
from tracerft.errors import DataError
from tracerft.reports.study import write_run_report, write_study_report


def test_a_study_becomes_a_page(tmp_path):
    """Headline, verdicts, deviations, figures and the command are on it."""
    path = write_study_report(write_study(tmp_path / "toy"))
    assert path == tmp_path / "toy" / "report.html"
    text = path.read_text(encoding="utf-8")
    read = Reader(text)
    assert not read.wrong
    assert len(read.all("script")) == 2
    assert len(read.all("svg")) == 2
    assert "http://" not in text
    words = read.words
    order = ["Five methods were compared", "✓ holds", "Results at the selected", "All strengths", "How to repeat it"]
    places = [words.index(part) for part in order]
    assert places == sorted(places)
    assert all(part in words for part in ("✗ does not hold", "– open", study()["command"], "3 min 20 s"))


def test_the_main_table_holds_the_selected_rows_with_deviations(tmp_path):
    """Five of ten rows; mean and deviation as the standard library computes them."""
    words = Reader(write_study_report(write_study(tmp_path / "toy")).read_text(encoding="utf-8")).words
    values = study()["rows"][1]["old"]["values"]
    expected = f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}"
    main, _, rest = words.partition("Mean ± sample")
    assert expected in main
    assert words.count(expected) == 2
    assert main.partition("Results at the selected strength")[2].count(HOSTILE[0]) >= 1
    assert "Show 10 rows" in rest
    assert f"{HOSTILE[0]} ★" in rest


def test_only_columns_with_a_better_end_have_a_best(tmp_path):
    """The highest, the lowest, or nobody."""
    folder = write_study(tmp_path / "toy")
    value = study()
    value["rows"] = [
        {"method": "a", "selected": True, "old": 1.0, "new": 1.0, "loss": 1.0},
        {"method": "b", "selected": True, "old": 2.0, "new": 2.0, "loss": 2.0},
    ]
    value["columns"][1]["better"] = None
    (folder / "study.json").write_text(json.dumps(value))
    cells = Reader(write_study_report(folder).read_text(encoding="utf-8")).all("td")
    best = [c.get("data-value") for c in cells if "best" in (c.get("class") or "")]
    assert best == ["1.0", "2.0"]


def test_a_study_without_figures_or_selection_still_has_a_page(tmp_path):
    """All rows are then the main table."""
    value = study()
    value["figures"] = []
    value["rows"] = [{**row, "selected": False} for row in value["rows"]]
    (tmp_path / "study.json").write_text(json.dumps(value))
    words = Reader(write_study_report(tmp_path).read_text(encoding="utf-8")).words
    assert "All strengths" not in words
    assert "Figures" not in words


def test_a_missing_or_incomplete_study_is_one_line(tmp_path):
    """With what to do."""
    with pytest.raises(DataError, match=r"study\.json does not exist; run `tracerft study NAME"):
        write_study_report(tmp_path)
    (tmp_path / "study.json").write_text('{"title": "x"}')
    with pytest.raises(DataError, match="`headline` as a list; got nothing; run the study again"):
        write_study_report(tmp_path)


def test_a_figure_cannot_be_fetched_from_elsewhere(tmp_path):
    """A path in study.json is cut to its name."""
    folder = write_study(tmp_path / "toy")
    value = study()
    value["figures"] = [{"file": "../../secret.svg"}]
    (folder / "study.json").write_text(json.dumps(value))
    (tmp_path / "secret.svg").write_text("<svg/>")
    with pytest.raises(DataError, match=r"figures.secret\.svg does not exist"):
        write_study_report(folder)


def test_a_run_becomes_a_page_that_says_gain_and_loss(tmp_path):
    """Points against the pretrained model: 90.5 - 80 and 68 - 70."""
    read = Reader(write_run_report(write_run(tmp_path / "photos")).read_text(encoding="utf-8"))
    assert not read.wrong
    assert len(read.all("script")) == 2
    assert len(read.all("svg")) == 2  # ID against shifts, learning curves
    assert f"Student: id 90.5\xa0% (+10.5); {HOSTILE[0]} 68.0\xa0% (−2.0)." in read.words
    assert "90.5 [88.5, 92.5]" in read.words
    assert "tracer: photos" in read.words
    assert "1 min 1 s" in read.words
    assert "1000 samples, sha256 abababababababab" in read.words
    assert "lr" not in read.words.partition("Learning curves")[2].partition("How to repeat it")[0]


def test_a_bare_evaluation_has_a_page_without_curves(tmp_path):
    """One model, no log, no pretrained model to compare with, a split of another kind."""
    folder = write_run(tmp_path / "bare")
    value = record()
    value.update(method=None, steps=None, results={"model": {"id": value["results"]["student"]["id"], "r": {"n": 3}}})
    (folder / "record.json").write_text(json.dumps(value))
    (folder / "metrics.jsonl").unlink()
    words = Reader(write_run_report(folder).read_text(encoding="utf-8")).words
    assert "Model: id 90.5\xa0%." in words
    assert "Learning curves" not in words


def test_a_log_may_end_in_the_middle_of_a_line_but_not_break_before(tmp_path):
    """A crash cuts the last line; anything else is damage."""
    folder = write_run(tmp_path / "photos")
    log = folder / "metrics.jsonl"
    whole = log.read_text()
    log.write_text(whole + '{"step": 30, "lo')
    assert write_run_report(folder).exists()
    log.write_text('{"step": 30, "lo\n' + whole)
    with pytest.raises(DataError, match="line 1, must be a JSON object"):
        write_run_report(folder)


def test_an_unfinished_run_has_no_report(tmp_path):
    """The cure is to resume."""
    with pytest.raises(DataError, match="tracerft finetune --resume"):
        write_run_report(tmp_path)


def test_a_study_report_starts_without_torch_and_matplotlib(tmp_path):
    """`tracerft report` must be quick: figures are files by then."""
    folder = write_study(tmp_path / "toy")
    code = (
        "import sys; from pathlib import Path; from tracerft.reports.study import write_study_report as w; "
        "w(Path(sys.argv[1])); print([m for m in ('torch', 'matplotlib', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
