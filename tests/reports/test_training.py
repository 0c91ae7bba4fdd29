"""What a run's report says of its training and of the way between start and end."""

import json

import pytest

from tests.reports.example import record, scores, write_run
from tests.reports.test_guard import entry
from tests.reports.test_html import Reader
from tracerft.errors import DataError
from tracerft.reports.run import write_run_report
from tracerft.reports.trade_off import INTERPOLATED, write_interpolated


def words(folder):
    """Of the report."""
    return Reader(write_run_report(folder).read_text(encoding="utf-8")).words


def written(folder, **more):
    """A run with more in its record."""
    write_run(folder)
    (folder / "record.json").write_text(json.dumps(record() | more))
    return folder


def test_the_gap_is_drawn_where_it_was_measured(tmp_path):
    """Two measurements make a line; none, no section; and it is no part of the loss."""
    folder = write_run(tmp_path / "run")
    assert "Teacher and student" not in words(folder)
    with (folder / "metrics.jsonl").open("a") as log:
        for step in (10, 20):
            gap = {"gap_weights": 0.5, "gap_kl": 0.1, "teacher_entropy": 0.7, "teacher_confidence": 0.8}
            log.write(json.dumps({"step": step, **gap}) + "\n")
    said = words(folder)
    assert "Teacher and student" in said
    assert "KL(teacher || student)" in said
    assert "gap_kl" not in said
    assert "teacher_confidence" not in said.partition("Learning curves")[2]


def test_drift_is_listed_for_every_layer_and_drawn_over_blocks(tmp_path):
    """Percent; a frozen tower is in the table and not in the figure; an old record has no such section."""
    assert "Drift" not in words(write_run(tmp_path / "old"))
    student = {"visual.blocks.0": 0.0123, "visual.blocks.1": 0.5, "visual.proj": 0.25, "text.blocks.0": 0.0}
    teacher = {"visual.blocks.0": 0.0061, "visual.blocks.1": 0.2, "visual.proj": 0.1, "text.blocks.0": 0.0}
    said = words(written(tmp_path / "run", drift={"student": student, "teacher": teacher}))
    table = said.partition("Drift of every layer")[2]
    assert all(value in table for value in ("1.23", "50.00", "25.00", "0.61", "text.blocks.0"))
    figure = said.rpartition("Drift of every layer")[0].rpartition("Learning curves")[2]
    assert "student: visual.blocks" in figure
    assert "student: text.blocks" not in figure


def test_the_figures_of_a_guarded_run_share_no_id(tmp_path):
    """Two fronts stand on one page: of the results, and of what the guard chose from."""
    folder = written(tmp_path / "run", guard=json.loads(json.dumps(entry(None, 0.7))))
    read = Reader(write_run_report(folder).read_text(encoding="utf-8"))
    assert len(read.all("svg")) == 3
    ids = [of["id"] for _, of in read.tags if "id" in of]
    assert len(ids) == len(set(ids))


def test_the_trade_off_is_that_of_one_evaluation(tmp_path):
    """Where interpolated models were evaluated, ends and points come from there; a damaged file is named."""
    folder = write_run(tmp_path / "run")
    drawn = write_run_report(folder).read_text().partition("ID against shifts")[2]
    results = {
        name: {"id": scores(0.5 + k / 10), "far": scores(0.6)}
        for k, name in enumerate(("pretrained", "student", "student-wise-0.50"))
    }
    write_interpolated(folder, results)
    assert write_run_report(folder).read_text().partition("ID against shifts")[2] != drawn
    (folder / INTERPOLATED).write_text('{"results": {"student": 3}}')
    with pytest.raises(DataError, match=r"interpolated\.json: holds no results.*--interpolate 11"):
        write_run_report(folder)
