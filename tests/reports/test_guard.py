"""Guard sections and lines of the terminal, from an entry whose numbers are worked out by hand."""

import torch

from tracerft.evaluation.front import measured, propose
from tracerft.reports.guard import guard_sections
from tracerft.reports.terminal import guard_lines

NEW = {"rule", "rate", "exchange"}  # what an entry of 0.1.0 does not have, nor "mean" and "value" of a point


def entry(max_drop, rate):
    """0.5, 0.7 and 1 held out, 1, 0.75 and 0.25 guarded: lines cross at rates (0.3 / 0.5) and (0.2 / 0.25)."""
    front = [
        measured(name, alpha, torch.arange(10) < right, {"far": torch.arange(4) < kept})
        for name, alpha, right, kept in (("pretrained", 0.0, 5, 4), ("student", 0.5, 7, 3), ("student", 1.0, 10, 1))
    ]
    sets = {"far": {"n": 4, "value": "top-1 accuracy"}}
    facts = {"sets": sets, "held_out": {"split": "select-id", "n": 10}, "also_reported": []}
    return propose(front, max_drop, rate)[1] | facts


def texts(table):
    """What each cell shows."""
    return [[cell.text for cell in row] for row in table.rows]


def test_the_page_says_what_to_take_at_which_rate():
    """The row that holds the rate is bold; every point shows its value."""
    said, drawn, exchange, front = guard_sections(entry(None, 0.7))
    assert "The rule: the largest held-out accuracy + guard.rate 0.7 x mean of the guard sets." in said.paragraphs
    assert "<svg" in drawn.svg
    assert texts(exchange) == [
        ["0", "0.6", "student", "1.0", "100.0", "25.0"],
        ["0.6", "0.8", "student", "0.5", "70.0", "75.0"],
        ["0.8", "any higher", "pretrained", "0.0", "50.0", "100.0"],
    ]
    assert [row[0].best for row in exchange.rows] == [False, True, False]
    assert [column.label for column in front.columns] == ["Model", "Share", "Held-out", "far", "Mean", "Value"]
    assert texts(front)[1] == ["student", "0.5", "70.0", "75.0", "75.0", "122.5"]


def test_a_bound_marks_what_does_not_keep_to_it():
    """In both tables; the rates are those of the whole front."""
    *_, exchange, front = guard_sections(entry(25.0, None))
    assert [row[-1] for row in texts(exchange)] == ["no", "yes", "yes"]
    assert [row[-1] for row in texts(front)] == ["yes", "yes", "no"]
    assert "do not keep to guard.max_drop 25" in exchange.note


def test_the_terminal_has_a_line_for_the_choice_and_one_for_the_rates():
    """None without a guard."""
    guard = entry(25.0, 0.1)
    rates = "0 to 0.6: student; 0.6 to 0.8: 0.5 of student; above 0.8: pretrained"
    assert guard_lines(guard) == [f"guarded: {guard['note']}", f"to take at an exchange rate of {rates}"]
    assert guard_lines({}) == []


def test_entries_of_old_records_are_shown_without_rates():
    """As 0.1.0 wrote them."""
    old = {key: value for key, value in entry(25.0, None).items() if key not in NEW}
    old["front"] = [{key: value for key, value in row.items() if key != "mean"} for row in old["front"]]
    said, _, front = guard_sections(old)
    assert not any("rule" in line for line in said.paragraphs)
    assert texts(front)[1] == ["student", "0.5", "70.0", "75.0", "yes"]
    assert guard_lines(old) == [f"guarded: {old['note']}"]
