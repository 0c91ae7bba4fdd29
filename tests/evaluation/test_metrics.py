"""Metrics against NumPy loops, torchmetrics and cases with a known answer."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torchmetrics.functional.classification import multiclass_calibration_error

from tracerft.errors import ArgumentError, ShapeError
from tracerft.evaluation.metrics import (
    accuracy,
    brier_score,
    ece_per_batch,
    expected_calibration_error,
    mean_per_class,
    negative_log_likelihood,
    summarise,
    top_k,
    wilson_interval,
)


@pytest.fixture(scope="module")
def sample() -> tuple[torch.Tensor, torch.Tensor]:
    """Seven classes, the last one absent from the labels; scores lean to the label."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 6, (801,), generator=generator)
    logits = torch.randn(801, 7, generator=generator, dtype=torch.float64)
    logits[torch.arange(801), labels] += 1.0
    return logits * 2.0, labels


def softmax_loop(logits: torch.Tensor) -> np.ndarray:
    """Row by row, the way a textbook writes it."""
    rows = []
    for row in logits.double().numpy():
        powers = [math.exp(x - max(row)) for x in row]
        rows.append([p / sum(powers) for p in powers])
    return np.array(rows)


def ece_loop(probabilities: np.ndarray, labels: np.ndarray, bins: int) -> float:
    """One bin at a time; [low, high), the last one closed."""
    confidence, hit = probabilities.max(1), probabilities.argmax(1) == labels
    total = 0.0
    for b in range(bins):
        low, high = b / bins, (b + 1) / bins
        inside = (confidence >= low) & ((confidence < high) | (b == bins - 1))
        if inside.any():
            total += inside.mean() * abs(hit[inside].mean() - confidence[inside].mean())
    return total


def test_accuracies_equal_a_numpy_loop(sample):
    """Top-1, top-k and mean per class, counted sample by sample."""
    logits, labels = sample
    scores, truth = logits.numpy(), labels.numpy()
    order = np.argsort(-scores, axis=1)
    assert accuracy(logits, labels) == pytest.approx(np.mean(order[:, 0] == truth), abs=1e-12)
    for k in (1, 3, 7):
        expected = np.mean([truth[i] in order[i, :k] for i in range(len(truth))])
        assert top_k(logits, labels, k) == pytest.approx(expected, abs=1e-12)
    per_class = [np.mean(order[truth == c, 0] == c) for c in sorted(set(truth.tolist()))]
    assert len(per_class) == 6
    assert mean_per_class(logits, labels) == pytest.approx(np.mean(per_class), abs=1e-12)


@pytest.mark.parametrize("bins", [1, 2, 10, 15])
def test_calibration_error_equals_a_numpy_loop(sample, bins):
    """Same bins, same sums, in float64."""
    logits, labels = sample
    expected = ece_loop(softmax_loop(logits), labels.numpy(), bins)
    assert expected_calibration_error(logits, labels, bins) == pytest.approx(expected, abs=1e-8)
    probabilities = logits.softmax(1)
    assert expected_calibration_error(probabilities, labels, bins, kind="probabilities") == pytest.approx(
        expected, abs=1e-8
    )


@pytest.mark.parametrize("bins", [10, 15])
def test_calibration_error_equals_torchmetrics(sample, bins):
    """The reference from another hand, float32."""
    logits, labels = sample[0].float(), sample[1]
    theirs = multiclass_calibration_error(logits.softmax(1), labels, num_classes=7, n_bins=bins, norm="l1")
    assert expected_calibration_error(logits, labels, bins) == pytest.approx(float(theirs), abs=1e-6)


def test_per_batch_error_equals_torchmetrics_per_batch(sample):
    """The published loop: torchmetrics on each batch, weighted by its size."""
    logits, labels = sample[0].float(), sample[1]
    total = 0.0
    for part, truth in zip(logits.split(64), labels.split(64), strict=True):
        total += float(multiclass_calibration_error(part.softmax(1), truth, num_classes=7, n_bins=10)) * len(truth)
    assert ece_per_batch(logits, labels, 64) == pytest.approx(total / len(labels), abs=1e-6)


def test_likelihood_and_brier_equal_a_numpy_loop(sample):
    """Mean of -log p_y and of the squared distance to the one-hot label."""
    logits, labels = sample
    p, one_hot = softmax_loop(logits), np.eye(7)[labels.numpy()]
    expected = np.mean([-math.log(row[y]) for row, y in zip(p, labels.tolist(), strict=True)])
    assert negative_log_likelihood(logits, labels) == pytest.approx(expected, abs=1e-8)
    assert brier_score(logits, labels) == pytest.approx(((p - one_hot) ** 2).sum(1).mean(), abs=1e-8)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_certain_guesses_have_error_one_minus_accuracy(share):
    """Confidence 1 everywhere: all mass in the last, closed bin."""
    labels = torch.zeros(40, dtype=torch.long)
    labels[int(40 * share) :] = 1
    certain = torch.tensor([[1.0, 0.0]]).repeat(40, 1)
    assert expected_calibration_error(certain, labels, kind="probabilities") == pytest.approx(1 - share, abs=1e-12)
    assert expected_calibration_error(certain * 1000, labels) == pytest.approx(1 - share, abs=1e-12)


def test_confidence_one_shares_the_last_bin():
    """A sample at 1.0 and one at 0.95 cancel within one bin: (1 - .5) + (0 - .45) over two samples."""
    probabilities = torch.tensor([[1.0, 0.0], [0.95, 0.05]], dtype=torch.float64)
    labels = torch.tensor([1, 0])
    # One bin: |accuracy .5 - confidence .975|; dropping or separating the 1.0 would give another number.
    value = expected_calibration_error(probabilities, labels, kind="probabilities")
    assert value == pytest.approx(0.475, abs=1e-12)


def test_a_confidence_on_an_edge_belongs_to_the_bin_above():
    """[low, high): 0.5 is counted with 0.6 when there are two bins, so the gaps cancel in part."""
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.2, 0.2], [0.45, 0.3, 0.25]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 0])
    value = expected_calibration_error(probabilities, labels, 2, kind="probabilities")
    assert value == pytest.approx((abs(0.5 - 0.6) + 0.55) / 3, abs=1e-12)


def test_perfect_calibration_is_near_zero():
    """Labels drawn from the stated probabilities."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20000, 4, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
    assert expected_calibration_error(logits, labels) < 0.02


def test_the_per_batch_error_is_never_below_the_global_one(sample):
    """Triangle inequality; one batch of everything is the global value."""
    logits, labels = sample
    overall = expected_calibration_error(logits, labels)
    values = [ece_per_batch(logits, labels, size) for size in (801, 512, 64, 7, 1)]
    assert values[0] == pytest.approx(overall, abs=1e-12)
    assert all(value >= overall - 1e-12 for value in values)
    assert values[-1] > overall + 0.05


@pytest.mark.parametrize(("correct", "n"), [(0, 7), (7, 7), (8, 10), (944, 1000), (1, 100000)])
@pytest.mark.parametrize("level", [0.95, 0.68])
def test_wilson_interval_equals_scipy(correct, n, level):
    """Scipy's own closed form."""
    theirs = binomtest(correct, n).proportion_ci(level, method="wilson")
    assert wilson_interval(correct, n, level) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_wilson_interval_keeps_its_ends():
    """No hits reach exactly 0, all hits exactly 1, and neither interval has length zero."""
    assert wilson_interval(0, 30)[0] == 0.0
    assert wilson_interval(30, 30)[1] == 1.0
    assert wilson_interval(30, 30)[0] < 0.9


def test_summary_has_the_fields_of_a_record_as_plain_values(sample):
    """Names fixed by record.json, values equal to the single functions, JSON without help."""
    logits, labels = sample
    result = summarise(logits, labels)
    assert list(result) == [
        "n", "top1", "top1_ci95", "top5", "mean_per_class", "macro_f1", "ece_10", "ece_15", "ece_per_batch_10", "nll",
        "brier",
    ]  # fmt: skip
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert type(result["n"]) is int
    assert all(type(v) is float for k, v in result.items() if k not in ("n", "top1_ci95"))
    assert result["top1"] == accuracy(logits, labels)
    assert result["top5"] == top_k(logits, labels, 5)
    assert result["ece_15"] == expected_calibration_error(logits, labels, 15)
    assert result["ece_per_batch_10"] == ece_per_batch(logits, labels, 512)
    assert result["top1_ci95"][0] < result["top1"] < result["top1_ci95"][1]


def test_top5_is_none_below_five_classes():
    """Four classes make a top-5 of one meaningless."""
    assert summarise(torch.eye(4), torch.arange(4))["top5"] is None
    assert summarise(torch.eye(5), torch.arange(5))["top5"] == 1.0


def test_half_precision_logits_are_widened_first():
    """bf16 softmax would round confidences; the widened one equals float32 on the same values."""
    logits = (torch.randn(64, 10, generator=torch.Generator().manual_seed(1)) * 20).bfloat16()
    labels = torch.arange(64) % 10
    assert summarise(logits, labels) == summarise(logits.float(), labels)


GOOD, TRUTH = torch.zeros(3, 2), torch.tensor([0, 1, 1])


@pytest.mark.parametrize("metric", [accuracy, mean_per_class, expected_calibration_error, brier_score, summarise])
@pytest.mark.parametrize(
    ("logits", "labels", "error", "words"),
    [
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), ArgumentError, "at least one sample"),
        (torch.zeros(3, 0), TRUTH, ArgumentError, "at least one sample"),
        (torch.zeros(3), TRUTH, ShapeError, r"must be \(n, C\)"),
        (GOOD, TRUTH[:2], ShapeError, r"\(3, 2\) and \(2,\)"),
        (GOOD, TRUTH[:, None], ShapeError, r"\(3, 1\)"),
        (GOOD, TRUTH + 1, ArgumentError, r"in \[0, 2\); got 1 to 2"),
        (GOOD, TRUTH - 1, ArgumentError, "got -1 to 0"),
        (GOOD, TRUTH.float(), ArgumentError, "integer class ids; got torch.float32"),
        (torch.tensor([[math.nan, 0.0], [0.0, 1.0], [0.0, math.inf]]), TRUTH, ArgumentError, "2 of 3 rows"),
    ],
)
def test_unusable_input_is_one_clear_line(metric, logits, labels, error, words):
    """Every metric refuses the same things in the same words."""
    with pytest.raises(error, match=words) as caught:
        metric(logits, labels)
    assert "\n" not in str(caught.value)


def test_values_outside_their_range_are_refused():
    """Bins, batch size, k, level, counts and kind."""
    with pytest.raises(ArgumentError, match="`bins`"):
        expected_calibration_error(GOOD, TRUTH, 0)
    with pytest.raises(ArgumentError, match="`batch_size`"):
        ece_per_batch(GOOD, TRUTH, 0)
    with pytest.raises(ArgumentError, match="`k`"):
        top_k(GOOD, TRUTH, 3)
    with pytest.raises(ArgumentError, match="`correct`"):
        wilson_interval(3, 2)
    with pytest.raises(ArgumentError, match="`correct`"):
        wilson_interval(0, 0)
    with pytest.raises(ArgumentError, match="`level`"):
        wilson_interval(1, 2, 95)
    with pytest.raises(ArgumentError, match="did you mean 'logits'"):
        expected_calibration_error(GOOD, TRUTH, kind="logit")


@pytest.mark.parametrize("bad", [GOOD, GOOD + 0.6, torch.tensor([[1.5, -0.5]] * 3)])
def test_logits_passed_as_probabilities_are_refused(bad):
    """Nothing is guessed: rows must sum to 1 and lie in [0, 1]."""
    with pytest.raises(ArgumentError, match="sum to 1"):
        expected_calibration_error(bad, TRUTH, kind="probabilities")
