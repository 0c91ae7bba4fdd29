"""Weighted metrics against scikit-learn and our own on drawn samples; intervals against a plain loop."""

import time

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from tracerft.errors import ArgumentError
from tracerft.evaluation.calibration import binned_gap
from tracerft.evaluation.resampling import Answers, resample, resampled_difference
from tracerft.evaluation.statistics import mean_paired_difference

METRICS = ("macro_f1", "worst_group", "ece_15")
N = 400


def answers(n: int = N, classes: int = 6, seed: int = 0) -> Answers:
    """Two models, the first better and surer; five groups, the smallest of them ignored."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(classes, n, p=np.arange(1, classes + 1) / sum(range(1, classes + 1)))
    guesses, confidences = {}, {}
    for model, right in (("a", 0.8), ("b", 0.6)):
        guess = np.where(generator.random(n) < right, labels, generator.integers(0, classes, n))
        guesses[model] = torch.from_numpy(guess)
        confidences[model] = torch.from_numpy(generator.beta(6, 2, n).astype(np.float32))
        confidences[model][:16] = torch.linspace(0, 1, 16)  # on the bins' edges
    groups = [f"g{i % 5}" if i % 40 else "rare" for i in range(n)]
    return Answers(torch.from_numpy(labels), guesses, confidences, "macro_f1", groups, ("rare",))


def by_hand(metric: str, of: Answers, model: str, rows: np.ndarray) -> float:
    """The metric of the drawn rows: scikit-learn, a loop over groups, and the one of record.json."""
    labels, guess = of.labels[rows], of.guesses[model][rows]
    if metric == "macro_f1":
        return f1_score(labels, guess, average="macro", labels=np.unique(labels))
    if metric == "ece_15":
        return binned_gap(of.confidences[model][rows], guess == labels, 15)
    names = np.array(of.groups)[rows]
    return min(float((guess == labels)[names == g].double().mean()) for g in set(names) - set(of.ignored))


@pytest.mark.parametrize("metric", METRICS)
def test_values_equal_those_of_the_drawn_samples(metric):
    """Whatever is drawn, a class without a sample included: weights are as good as repeated rows."""
    of, generator = answers(), np.random.default_rng(1)
    value = of.weighted(metric, "a")
    right = np.flatnonzero(of.hits("a"))[1:4]  # three samples alone: classes and groups are missing
    draws = [np.arange(N), *(generator.integers(0, N, N) for _ in range(5)), generator.choice(right, N)]
    weights = torch.from_numpy(np.stack([np.bincount(rows, minlength=N) for rows in draws], axis=1)).double()
    expected = [by_hand(metric, of, "a", rows) for rows in draws]
    np.testing.assert_allclose(value(weights).numpy(), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("metric", METRICS)
def test_intervals_equal_a_plain_loop(metric):
    """Difference of both models on the same drawn rows, 400 times, one resample after another."""
    of, generator = answers(), np.random.default_rng(2)
    found = resample({m: of.weighted(metric, m) for m in "ab"}, N, seed=3)
    ours = resampled_difference([(found["a"], found["b"])], n=N)
    rows = [generator.integers(0, N, N) for _ in range(400)]
    loop = np.array([by_hand(metric, of, "a", r) - by_hand(metric, of, "b", r) for r in rows])
    everything = np.arange(N)
    point = by_hand(metric, of, "a", everything) - by_hand(metric, of, "b", everything)
    assert ours.difference == pytest.approx(point, abs=1e-8)
    assert ours.ci95 == pytest.approx(np.quantile(loop, [0.025, 0.975]), abs=0.35 * loop.std())  # 2.4 noises
    assert ours.n == N


def test_many_samples_are_drawn_in_chunks_with_one_stream(monkeypatch):
    """How many weights are held at a time changes nothing."""
    of = answers()
    whole = resample({"a": of.weighted("ece_15", "a")}, N, resamples=100)["a"]
    monkeypatch.setattr("tracerft.evaluation.resampling.CHUNK", 7 * N)
    parts = resample({"a": of.weighted("ece_15", "a")}, N, resamples=100)["a"]
    assert whole.shape == parts.shape == (101,)
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-12)


def test_equal_models_do_not_differ_and_the_seed_fixes_the_draws():
    """Paired: the same draws for both."""
    of = answers()
    found = resample({"x": of.weighted("ece_15", "a"), "y": of.weighted("ece_15", "a")}, N, resamples=100)
    same = resampled_difference([(found["x"], found["y"])], n=N)
    assert (same.difference, same.ci95, same.p) == (0.0, (0.0, 0.0), 1.0)
    again = resample({"x": of.weighted("ece_15", "a")}, N, resamples=100)
    other = resample({"x": of.weighted("ece_15", "a")}, N, resamples=100, seed=1)
    assert np.array_equal(again["x"], found["x"])
    assert not np.array_equal(other["x"][1:], found["x"][1:])


def test_the_mean_of_splits_weighs_them_equally():
    """As `mean_paired_difference` does for accuracy, whose weighted form is the mean of the hits."""
    both = [answers(200, seed=1), answers(600, seed=2)]
    values = []
    for seed, of in enumerate(both):
        hits = {m: of.hits(m).double() for m in "ab"}
        values.append(resample({m: lambda w, h=h: h @ w / len(h) for m, h in hits.items()}, len(of.labels), seed=seed))
    ours = resampled_difference([(v["a"], v["b"]) for v in values], n=800)
    exact = mean_paired_difference([(of.hits("a"), of.hits("b")) for of in both])
    width = exact.ci95[1] - exact.ci95[0]
    assert ours.difference == pytest.approx(exact.difference, abs=1e-12)
    assert ours.ci95 == pytest.approx(exact.ci95, abs=0.06 * width)


def test_the_interval_is_that_of_the_metric_as_it_is_measured():
    """Of 150 test sets of 200, 89 % of the intervals hold the average measured difference (94 % of 600 other sets)."""
    generator, found = np.random.default_rng(5), []
    for _ in range(150):
        sure = generator.beta(4, 2, 200)
        of = Answers(
            torch.zeros(200, dtype=torch.long),
            dict.fromkeys("ab", torch.from_numpy((generator.random(200) > sure).astype(np.int64))),
            {"a": torch.from_numpy(sure), "b": torch.from_numpy(np.sqrt(sure))},  # a is calibrated, b too sure
        )
        values = resample({m: of.weighted("ece_15", m) for m in "ab"}, 200, resamples=200)
        found.append(resampled_difference([(values["a"], values["b"])], n=200))
    measured = np.mean([d.difference for d in found])
    assert 0.85 <= np.mean([d.ci95[0] <= measured <= d.ci95[1] for d in found]) < 1.0


def test_large_test_sets_stay_fast():
    """50,000 samples: 1,000 resamples of one model's calibration error took 0.5 s; ten times that is a mistake."""
    of = answers(50_000)
    start = time.process_time()
    resample({"a": of.weighted("ece_15", "a")}, 50_000, resamples=200)
    assert time.process_time() - start < 2.0


def test_too_little_to_draw_from_is_one_line():
    """No sample, few resamples."""
    with pytest.raises(ArgumentError, match="`n` must be at least 1"):
        resample({}, 0)
    with pytest.raises(ArgumentError, match="`resamples` must be at least 100"):
        resample({}, 5, resamples=10)
