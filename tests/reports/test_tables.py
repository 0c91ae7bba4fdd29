"""Numbers and tables as text."""

import io
import math
import statistics

import pytest
from rich.console import Console

from tracerft.errors import ShapeError
from tracerft.reports.tables import markdown, mean_std, number, rich_table, spread


def test_mean_and_sample_deviation_equal_the_standard_library():
    """N - 1, with n printed; by hand: mean 2, deviation 1."""
    assert mean_std([1.0, 2.0, 3.0]) == "2.0 ± 1.0 (n=3)"
    values = [0.9131, 0.9452, 0.9277, 0.9318]
    expected = f"{100 * statistics.fmean(values):.2f} ± {100 * statistics.stdev(values):.2f} (n=4)"
    assert mean_std(values, digits=2, scale=100) == expected


def test_one_value_has_no_deviation_and_none_is_a_dash():
    """Nothing is made up."""
    assert mean_std([3.25], digits=2) == "3.25 (n=1)"
    assert mean_std([3.25], show_n=False) == "3.2"
    assert mean_std([]) == "–"


def test_minus_is_a_minus_and_zero_has_none():
    """A hyphen would break the line; -0.0 would look like a loss."""
    assert number(-1.25, 2) == "−1.25"
    assert number(-0.01) == "0.0"


def test_a_cell_is_read_in_each_of_its_forms():
    """Mapping, number, nothing."""
    mean, std, n = spread({"mean": 2.0, "values": [1.0, 2.0, 3.0]})
    assert (mean, std, n) == (2.0, 1.0, 3)
    assert spread({"mean": 2.0, "std": 0.5, "values": [1.0, 3.0]}) == (2.0, 0.5, 2)
    assert spread({"mean": 2.0, "std": None, "values": [2.0]}) == (2.0, None, 1)
    assert spread(4) == (4.0, None, 1)
    for nothing in (None, math.nan, "x", True, {}, {"mean": None}, {"values": []}):
        assert spread(nothing) is None


def test_markdown_cells_stay_in_their_cells():
    """Pipes, line breaks and tags are disarmed."""
    text = markdown(["name", "x"], [["a|b\nc", None], ["<script>", 1.5]])
    assert text == "| name | x |\n| --- | --- |\n| a\\|b c | – |\n| &lt;script> | 1.5 |\n"


def test_terminal_cells_are_not_markup():
    """Rich would read [red] as a colour and a terminal ESC as a command."""
    out = io.StringIO()
    Console(file=out, width=80).print(rich_table(["name", "x"], [["[red]a[/red]\x1b[2J", None]], title="[b]t"))
    assert "[red]a[/red] [2J" in out.getvalue()
    assert "[b]t" in out.getvalue()
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize("make", [markdown, rich_table])
def test_ragged_rows_are_refused(make):
    """The row is named."""
    with pytest.raises(ShapeError, match=r"`rows\[1\]` must have 2 cells"):
        make(["a", "b"], [[1, 2], [1]])
