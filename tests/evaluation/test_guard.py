"""The choice on hand-made fronts, and the similarity of texts against a plain loop."""

import math

import pytest
import torch
import torch.nn.functional as F

from tracerft.errors import ArgumentError, ShapeError
from tracerft.evaluation.front import measured, propose
from tracerft.evaluation.guard import Point, choose, drops, text_structure
from tracerft.evaluation.statistics import wilson_interval

START = Point("pretrained", 0.0, 0.50, {"a": 0.60, "b": 0.80})
FRONT = [
    START,
    Point("student", 0.5, 0.70, {"a": 0.59, "b": 0.75}),  # drops by hand: 1 and 5 points
    Point("student", 1.0, 0.90, {"a": 0.40, "b": 0.81}),  # 20 and -1
    Point("teacher", 0.5, 0.65, {"a": 0.58, "b": 0.79}),  # 2 and 1
    Point("teacher", 1.0, 0.70, {"a": 0.58, "b": 0.76}),  # 2 and 4
]


@pytest.mark.parametrize(
    ("max_drop", "model", "alpha"),
    [
        (0.0, "pretrained", 0.0),
        (1.9, "pretrained", 0.0),
        (2.0, "teacher", 0.5),  # 100 * (0.60 - 0.58) is a little above 2 in floating point
        (4.0, "teacher", 1.0),
        (5.0, "teacher", 1.0),  # as accurate as half the student, whose worst drop is larger
        (19.9, "teacher", 1.0),
        (20.0, "student", 1.0),
        (100.0, "student", 1.0),
    ],
)
def test_the_best_point_that_keeps_every_set(max_drop, model, alpha):
    """From: the drops beside FRONT, worked out by hand; one set over the bound is one too many."""
    chosen = choose(FRONT, max_drop)
    assert (chosen.model, chosen.alpha) == (model, alpha)


def test_a_point_below_the_start_is_not_chosen_for_keeping():
    """The start keeps all by definition; of equals in every respect the first is taken."""
    worse = Point("student", 0.1, 0.49, dict(START.guards))
    same = Point("student", 0.2, 0.50, dict(START.guards))
    assert choose([START, worse, same], 100.0) is START
    assert drops(START, worse) == {"a": 0.0, "b": 0.0}


def test_without_guard_sets_only_accuracy_counts():
    """Nothing can be broken."""
    front = [Point("pretrained", 0.0, 0.5, {}), Point("student", 1.0, 0.6, {})]
    assert choose(front, 0.0) is front[1]


@pytest.mark.parametrize(
    ("front", "max_drop", "message"),
    [
        ([], 2.0, "`front` must hold at least the start"),
        (FRONT, -1.0, "`max_drop` must be at least 0 points; got -1"),
        (FRONT, math.nan, "`max_drop` must be at least 0 points; got nan"),
        ([START, Point("student", 1.0, 0.9, {"a": 0.6})], 2.0, "`front` must be measured on one list of guard sets"),
    ],
)
def test_what_cannot_be_chosen_from(front, max_drop, message):
    """One line that says what to do."""
    with pytest.raises(ArgumentError, match=message):
        choose(front, max_drop)


@pytest.mark.parametrize(
    ("max_drop", "rate", "model", "alpha"),
    [
        (math.inf, 0.0, "student", 1.0),
        (math.inf, 1.0, "student", 1.0),  # 0.900 + 0.605; half the student 0.70 + 0.67
        (math.inf, 3.0, "student", 1.0),  # 2.715; half the student 2.71
        (math.inf, 3.1, "teacher", 1.0),  # 2.777, as half the student with a larger drop; the student 2.7755
        (math.inf, 100.0, "pretrained", 0.0),
        (5.0, 1.0, "teacher", 1.0),  # as half the student, whose worst drop is larger
        (4.0, 1.0, "teacher", 1.0),
        (2.0, 0.0, "teacher", 0.5),
        (2.0, 20.0, "pretrained", 0.0),  # 14.5; the teacher half way 0.65 + 13.7
    ],
)
def test_a_rate_weighs_the_mean_of_the_sets(max_drop, rate, model, alpha):
    """From hand: means of FRONT are 0.70, 0.67, 0.605, 0.685 and 0.67."""
    chosen = choose(FRONT, max_drop, rate)
    assert (chosen.model, chosen.alpha) == (model, alpha)


@pytest.mark.parametrize("rate", [-1.0, math.inf, math.nan])
def test_a_rate_out_of_range_is_named(rate):
    """One line."""
    with pytest.raises(ArgumentError, match="`rate` must be finite and at least 0; got"):
        choose(FRONT, 2.0, rate)


def of_hits(model, alpha, held, guarded):
    """A point of a hand-made front from strings of hits."""
    hits = [torch.tensor([c == "1" for c in text]) for text in (held, guarded)]
    return measured(model, alpha, hits[0], {"a": hits[1]})


def test_the_entry_says_what_was_measured_and_chosen():
    """From hand: 10 held-out images and 4 guarded ones; the guarded answers of the middle point lose one of four."""
    front = [
        of_hits("pretrained", 0.0, "1111100000", "1111"),
        of_hits("student", 0.5, "1111111000", "1110"),
        of_hits("student", 1.0, "1111111111", "0001"),
    ]
    point, entry = propose(front, 25.0)
    chosen = entry["chosen"]
    assert point is front[1].point
    assert (chosen["model"], chosen["alpha"], chosen["drops"]) == ("student", 0.5, {"a": 25.0})
    assert chosen["accuracy"] == pytest.approx(0.7)
    assert chosen["accuracy_ci95"] == list(wilson_interval(7, 10))
    assert chosen["gain"] == pytest.approx(0.2)
    assert chosen["gain_ci95"][0] <= 0.2 <= chosen["gain_ci95"][1]
    assert chosen["drops_ci95"]["a"] == [0.0, 75.0]  # of Binomial(4, 1/4): 3 or more has a chance of 0.051
    assert [(row["alpha"], row["guards"]["a"], row["keeps"]) for row in entry["front"]] == [
        (0.0, 1.0, True), (0.5, 0.75, True), (1.0, 0.25, False),
    ]  # fmt: skip
    assert entry["note"].startswith("0.5 of the way from the pretrained model to the student")
    assert not entry["only_start"]
    assert propose(front, 24.0)[1]["only_start"]
    assert "No point but the pretrained model keeps every guard set within 24 points" in propose(front, 24.0)[1]["note"]
    assert propose(front, 80.0)[1]["note"].startswith("The student itself is the most accurate point that keeps")
    better_start = [of_hits("pretrained", 0.0, "1", "1"), of_hits("student", 1.0, "0", "1")]
    point, entry = propose(better_start, 2.0)
    assert (point.alpha, entry["only_start"]) == (0.0, False)
    assert "is more accurate than it" in entry["note"]


def test_the_entry_says_which_rule_chose_and_what_each_point_is_worth():
    """From hand: 0.5, 0.7, 1 held out; 1, 0.75, 0.25 guarded; at 0.7 worth 1.2, 1.225, 1.175; crossings 0.6, 0.8."""
    front = [
        of_hits("pretrained", 0.0, "1111100000", "1111"),
        of_hits("student", 0.5, "1111111000", "1110"),
        of_hits("student", 1.0, "1111111111", "0001"),
    ]
    point, entry = propose(front, None, 0.7)
    assert point is front[1].point
    assert [row["value"] for row in entry["front"]] == pytest.approx([1.2, 1.225, 1.175])
    assert [row["mean"] for row in entry["front"]] == [1.0, 0.75, 0.25]
    assert (entry["rate"], entry["max_drop"], "keeps" in entry["front"][0]) == (0.7, None, False)
    assert entry["rule"] == "the largest held-out accuracy + guard.rate 0.7 x mean of the guard sets"
    assert "at guard.rate 0.7: 70.0 held-out + 0.7 x 75.0 guarded = 122.5, the pretrained model 120.0." in entry["note"]
    pieces = [(p["model"], p["alpha"], p["from"], p["to"]) for p in entry["exchange"]]
    assert [p[:2] for p in pieces] == [("student", 1.0), ("student", 0.5), ("pretrained", 0.0)]
    assert [p[2] for p in pieces] == pytest.approx([0.0, 0.6, 0.8])
    assert [p[3] for p in pieces[:2]] == pytest.approx([0.6, 0.8])
    assert pieces[2][3] is None
    point, entry = propose(front, 25.0, 0.1)
    assert (point.alpha, [row["keeps"] for row in entry["front"]]) == (0.5, [True, True, False])
    assert entry["rule"].endswith("mean of the guard sets of the points within guard.max_drop 25")
    assert entry["note"].endswith("Without guard.max_drop it would be the student itself.")
    assert [(p["model"], p["alpha"]) for p in entry["exchange"]] == [p[:2] for p in pieces]
    assert propose(front, 24.0, 0.1)[1]["note"].startswith("No point but the pretrained model keeps")
    assert propose(front, 25.0)[1]["rule"] == "the highest held-out accuracy of the points within guard.max_drop 25"
    assert "value" not in propose(front, 25.0)[1]["front"][0]
    assert propose(front, None, 5.0)[1]["note"].startswith("The pretrained model is worth most at guard.rate 5")
    assert propose(front[:1], None, 1.0)[1]["note"].startswith("The pretrained model is worth most at guard.rate 1")


def test_a_value_of_no_sample_has_no_interval():
    """Such as that of all texts there are."""
    front = [
        measured(name, alpha, torch.tensor([True, False]), {"text": torch.tensor([value])})
        for name, alpha, value in (("pretrained", 0.0, 1.0), ("student", 1.0, 0.99))
    ]
    assert propose(front, 2.0)[1]["chosen"]["drops_ci95"] == {"text": None}


def test_text_structure_of_known_angles():
    """From hand: cosines 0, 0, 0 become 0.6, 0, 0.8, a mean change of 1.4 / 3; a rotation changes none."""
    start, now = torch.eye(3), torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.0, 0.8], [0.0, 0.0, 1.0]])
    assert text_structure(now, start) == pytest.approx(1 - 1.4 / 3, abs=1e-7)
    assert text_structure(start[[1, 2, 0]], start) == 1.0


def test_text_structure_is_that_of_a_plain_loop():
    """Over pairs i < j, in float64; widths may differ."""
    generator = torch.Generator().manual_seed(0)
    now, start = (F.normalize(torch.randn(5, d, generator=generator, dtype=torch.float64), dim=1) for d in (4, 7))
    changes = [abs(float(now[i] @ now[j]) - float(start[i] @ start[j])) for i in range(5) for j in range(i + 1, 5)]
    assert text_structure(now, start) == pytest.approx(1 - sum(changes) / len(changes), abs=1e-12)


@pytest.mark.parametrize(("now", "start"), [((1, 3), (1, 3)), ((2, 3), (3, 3)), ((2,), (2, 3))])
def test_text_structure_needs_two_captions(now, start):
    """And the same ones."""
    with pytest.raises(ShapeError, match="of the same captions, at least 2"):
        text_structure(torch.ones(now), torch.ones(start))
