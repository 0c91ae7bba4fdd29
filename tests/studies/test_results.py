"""Runs to rows, claims and figures of any study; pairs and figures against a bar are in `test_toy`."""

import pytest

from tracerft.studies.results import claim, paired_claim, points_of, rows_of, select, spread, write_figures

COLUMNS = [{"key": "kept"}, {"key": "teacher_kept"}, {"key": "pretrained_share"}]


def one(selection, kept, **more):
    """Measures of one run."""
    return {"selection": selection, "kept": kept} | more


RESULTS = {
    ("b", 1.0, 1): one(60.0, 3.0),
    ("b", 1.0, 0): one(50.0, 1.0, teacher_kept=9.0),
    ("b", 2.0, 0): one(54.0, 5.0),
    ("a", 0.0, 0): one(10.0, 7.0),
}


def test_points_hold_their_seeds_in_order():
    """Whatever the order of the runs."""
    assert [v["kept"] for v in points_of(RESULTS)["b", 1.0]] == [1.0, 3.0]
    assert set(points_of(RESULTS)) == {("a", 0.0), ("b", 1.0), ("b", 2.0)}


def test_the_highest_mean_is_selected():
    """Of `selection` alone; the first of equals; a method without it keeps its one strength."""
    assert select(RESULTS) == {"a": 0.0, "b": 1.0}
    assert select(RESULTS | {("b", 2.0, 1): one(90.0, 0.0)})["b"] == 2.0
    assert select({("a", 1.0, 0): one(5.0, 0.0), ("a", 2.0, 0): one(5.0, 9.0)}) == {"a": 1.0}
    assert select({("c", 0.5, 0): {"kept": 1.0}}) == {"c": 0.5}


def test_rows_are_in_the_order_of_the_labels():
    """With a mean over the seeds that have the measure, and the share of the start."""
    rows = rows_of(RESULTS, COLUMNS, {"a": "A", "b": "B"}, {"b": 40.0})
    assert [(r["id"], r["method"], r["strength"], r["selected"], r["n"]) for r in rows] == [
        ("a", "A", None, True, 1), ("b", "B", 1.0, True, 2), ("b", "B", 2.0, False, 1),
    ]  # fmt: skip
    assert rows[1]["kept"] == {"mean": 2.0, "std": pytest.approx(2**0.5), "values": [1.0, 3.0]}
    assert rows[1]["teacher_kept"] == {"mean": 9.0, "std": None, "values": [9.0]}
    assert rows[0]["teacher_kept"] is None
    assert [r["pretrained_share"] for r in rows] == [None, 40.0, 40.0]


def test_what_was_selected_earlier_stays_selected():
    """So that more seeds do not change the choice."""
    rows = rows_of(RESULTS, COLUMNS, {"a": "A", "b": "B"}, {}, {"a": 0.0, "b": 2.0})
    assert [(r["strength"], r["selected"]) for r in rows if r["id"] == "b"] == [(1.0, False), (2.0, True)]


def test_a_spread_of_nothing_is_none():
    """And of one value it has no deviation."""
    assert spread([]) is None
    assert spread([4.0]) == {"mean": 4.0, "std": None, "values": [4.0]}


def test_pairs_need_the_same_seeds():
    """Another number of values is a mistake of the study, not a number."""
    row = {"m": {"values": [1.0, 2.0]}}
    with pytest.raises(ValueError, match="shorter"):
        paired_claim("x", "text", row, {"m": {"values": [1.0]}}, "m")


def test_a_claim_holds_plain_values():
    """For JSON: no numpy in it."""
    import numpy as np

    assert claim("x", "p", "o", np.bool_(True))["holds"] is True
    assert claim("x", "p", None, None, "n") == {"id": "x", "paper": "p", "ours": None, "holds": None, "note": "n"}


def test_figures_are_written_and_listed(tmp_path):
    """With a file, a caption and a text for those who do not see them."""
    entries = write_figures(tmp_path, [("one", "Title", "<svg/>", "Caption.")])
    assert (tmp_path / "figures/one.svg").read_text() == "<svg/>"
    assert entries == [
        {"file": "figures/one.svg", "title": "Title", "caption": "Caption.",
         "alt": "Title: the numbers are in the tables of this page"},
    ]  # fmt: skip
