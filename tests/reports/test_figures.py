"""Figures are small, repeatable, readable on both backgrounds, and draw what they are given."""

import math
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from tests.reports.example import HOSTILE, rows
from tracerft.errors import ArgumentError, DataError
from tracerft.reports import figures
from tracerft.reports.marks import MAX_POINTS, PALETTE
from tracerft.reports.svg import inline, inline_text

LONG = [
    {"label": f"m{i}", "x": list(range(5000)), "y": [math.exp(-x / 900) + i for x in range(5000)]} for i in range(8)
]
DRAWINGS = {
    "grouped_bars": lambda: figures.grouped_bars(rows(), [("old", "Old"), ("new", "New")], x_label="accuracy, %"),
    "bars": lambda: figures.bars(rows(), "old"),
    "front": lambda: figures.front(rows(), "new", "old", reference={"method": "start", "new": 40.0, "old": 99.0}),
    "curves": lambda: figures.curves(LONG, log_y=True),
}


def texts(svg: str) -> list[str]:
    """What a reader sees written."""
    return ["".join(e.itertext()) for e in ElementTree.fromstring(svg).iter() if str(e.tag).endswith("}text")]


@pytest.mark.parametrize("name", DRAWINGS)
def test_the_same_rows_give_the_same_small_svg(name):
    """No date, no random names, under 60 KiB, text kept as text in the page's colour."""
    svg = DRAWINGS[name]()
    assert svg == DRAWINGS[name]()
    assert len(svg.encode()) < 60 * 1024
    assert "<metadata" not in svg
    assert "<image" not in svg
    assert "currentColor" in svg
    assert "#010203" not in svg
    assert texts(svg)


def test_figures_leave_matplotlib_as_it_was():
    """Settings are local."""
    import matplotlib

    before = dict(matplotlib.rcParams)
    DRAWINGS["bars"]()
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.rcParams["svg.hashsalt"] is None


def test_drawing_loads_no_pyplot():
    """Pyplot keeps every figure alive and may look for a screen; asked in a process where nobody else loads it."""
    code = (
        "import sys; from tracerft.reports import figures; early = 'matplotlib' in sys.modules; "
        "figures.bars([{'method': 'a', 'x': 1.0}], 'x'); print(early, 'matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"


def test_labels_are_text_whatever_they_hold():
    """Formulas, tags and right-to-left names arrive as they are; a control character does not break the XML."""
    svg = figures.bars([{"method": name + "\x0b", "old": 1.0} for name in ("$a_b$", "<b>", HOSTILE[3], "🦊")], "old")
    shown = texts(svg)
    assert "$a_b$ " in shown
    assert "<b> " in shown
    assert "🦊 " in shown


def test_bars_print_their_values_and_skip_missing_ones():
    """The loss is there for the last row only."""
    assert "12.2" in texts(figures.bars(rows(), "loss")) or "12.3" in texts(figures.bars(rows(), "loss"))
    assert "−3.0" in texts(figures.bars([{"method": "a", "x": -3.0}, {"method": "b", "x": 1.0}], "x"))


def test_a_far_reference_does_not_stretch_the_horizontal_axis():
    """The pretrained model knows nothing of the new task; its 40 must not appear on an axis from 95 to 96."""
    shown = [float(t) for t in texts(DRAWINGS["front"]()) if re.fullmatch(r"\d+\.\d+", t)]
    assert shown
    assert min(shown) > 90


def test_the_selected_points_wear_stars():
    """One star shape more per selected point."""
    none = figures.front([{**row, "selected": False} for row in rows()], "new", "old")
    assert figures.front(rows(), "new", "old").count("<use ") == none.count("<use ") + len(HOSTILE)


def test_long_lines_are_thinned_to_their_ends():
    """First and last point stay."""
    from tracerft.reports.marks import _thin

    kept = _thin(list(range(5000)))
    assert len(kept) == MAX_POINTS
    assert (kept[0], kept[-1]) == (0, 4999)
    assert _thin([3, 4]) == [3, 4]


def test_log_ticks_are_plain_numbers():
    """With formulas off, matplotlib's own log labels would print their source."""
    shown = texts(figures.curves([{"label": "a", "x": [0, 1, 2, 3], "y": [1.0, 0.01, math.nan, 0.0]}], log_y=True))
    assert "0.1" in shown
    assert not any("mathdefault" in t for t in shown)


def luminance(color: str) -> float:
    """Relative luminance (WCAG 2)."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("color", PALETTE)
@pytest.mark.parametrize("paper", ["#ffffff", "#15171a"])
def test_colours_keep_contrast_three_on_both_papers(color, paper):
    """WCAG's bound for graphics."""
    dark, light = sorted((luminance(color), luminance(paper)))
    assert (light + 0.05) / (dark + 0.05) >= 3.0


def test_nothing_to_draw_and_unequal_lengths_are_refused():
    """One line each."""
    with pytest.raises(ArgumentError, match="`rows`"):
        figures.bars([], "x")
    with pytest.raises(ArgumentError, match=r"`lines\[0\]`"):
        figures.curves([{"label": "a", "x": [1, 2], "y": [1]}])


SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">{}</svg>'


@pytest.mark.parametrize(
    "part",
    [
        "<script>1</script>", "<foreignObject/>", "<image href='#a'/>", "<a href='#x'/>", "<g onclick='x()'/>",
        "<use xlink:href='file:///etc/passwd'/>", "<use href='//x/y#z'/>", "<g style='fill:url(http://x/y)'/>",
        "<style>@import 'x'</style>", "<style>a{b:url(x)}</style>", "<style>&lt;/style&gt;</style>",
        "<script xmlns='http://www.w3.org/1999/xhtml'/>", "<g>", "<animate/>",
    ],
)  # fmt: skip
def test_drawings_that_could_act_are_refused(part):
    """Only shapes and text come into a page."""
    with pytest.raises(DataError, match="draw the figure again"):
        inline_text(SVG.format(part), "p-", "front.svg")


def test_names_get_a_prefix_and_addresses_vanish():
    """Two drawings on one page cannot mix clips and markers."""
    inner = "<defs><path id='a'/></defs><use xlink:href='#a'/><g clip-path='url(#a)'/>"
    text = inline_text(SVG.format(inner), "p-", "x.svg")
    assert 'id="p-a"' in text
    assert 'xlink:href="#p-a"' in text
    assert "url(#p-a)" in text
    assert "http" not in text


def test_a_missing_drawing_is_named(tmp_path):
    """With the cure."""
    with pytest.raises(DataError, match=r"none\.svg does not exist; draw"):
        inline(tmp_path / "none.svg", "p-")
