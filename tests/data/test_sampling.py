"""Order and randomness as pure functions."""

import tracemalloc

import numpy as np
import pytest
import torch

from tracerft.data import sampling
from tracerft.data.sampling import (
    LISTED,
    batch_at,
    epoch_order,
    generator,
    keys,
    order_at,
    permuted,
    steps_per_epoch,
    uniforms,
)
from tracerft.errors import DataError


@pytest.mark.parametrize("num", [1, 2, 17, 1000])
def test_the_order_is_a_permutation(num):
    """Every sample once."""
    assert sorted(epoch_order(0, 0, num)) == list(range(num))


def test_the_order_is_pure_and_differs_by_epoch_and_seed():
    """Equal arguments, equal order, whatever was drawn in between."""
    first = epoch_order(1, 2, 50)
    np.random.default_rng(0).random(3)
    torch.rand(3)
    assert np.array_equal(epoch_order(1, 2, 50), first)
    assert not np.array_equal(epoch_order(1, 3, 50), first)
    assert not np.array_equal(epoch_order(2, 2, 50), first)
    assert not np.array_equal(epoch_order(2, 1, 50), first)


def test_the_order_of_seed_0_stays_what_it_was():
    """Golden, from this code at its first release: a change here changes every result."""
    assert epoch_order(0, 0, 8).tolist() == [7, 4, 5, 3, 0, 1, 6, 2]


def test_the_first_place_is_taken_by_all_samples_alike():
    """Over 4,000 epochs each of 8 samples comes first about 500 times (five standard deviations)."""
    counts = np.bincount([epoch_order(0, epoch, 8)[0] for epoch in range(4000)], minlength=8)
    assert abs(counts - 500).max() < 5 * np.sqrt(500)


def test_keys_differ_by_every_part():
    """Seed, epoch, sample, purpose; 10,000 samples do not collide."""
    samples = np.arange(10_000)
    base = keys(0, 0, samples, "order")
    assert len(set(base.tolist())) == len(samples)
    for other in (keys(1, 0, samples, "order"), keys(0, 1, samples, "order"), keys(0, 0, samples, "colour")):
        assert not (base == other).any()


def test_a_key_does_not_depend_on_its_neighbours():
    """Workers and ranks see parts of the data and draw the same."""
    whole = keys(3, 4, np.arange(100), "colour")
    assert np.array_equal(keys(3, 4, np.array([77, 5]), "colour"), whole[[77, 5]])


def test_uniforms_are_uniform():
    """In [0, 1); each tenth holds a tenth of 20,000 (five standard deviations); close samples are unrelated."""
    draws = uniforms(0, 0, np.arange(20_000), "colour")
    assert draws.min() >= 0.0
    assert draws.max() < 1.0
    counts = np.histogram(draws, bins=10, range=(0, 1))[0]
    assert abs(counts - 2000).max() < 5 * np.sqrt(2000 * 0.9)
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 5 / np.sqrt(20_000)


def test_a_generator_is_reproducible_and_its_own():
    """Same key, same numbers; another sample, epoch or purpose, others."""

    def draw(*key):
        return torch.rand(4, generator=generator(*key)).tolist()

    assert draw(0, 1, 2, "crop") == draw(0, 1, 2, "crop")
    others = [draw(0, 1, 2, "crop"), draw(0, 1, 3, "crop"), draw(0, 2, 2, "crop"), draw(1, 1, 2, "crop"),
              draw(0, 1, 2, "flip")]  # fmt: skip
    assert len({tuple(o) for o in others}) == len(others)


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_the_largest_seed_works(seed):
    """What the configuration allows."""
    generator(seed, 0, 0, "x")
    assert len(epoch_order(seed, 10**6, 5)) == 5


@pytest.mark.parametrize(("num", "size"), [(10, 3), (12, 4), (7, 7)])
def test_batches_of_an_epoch_hold_every_sample_at_most_once(num, size):
    """The rest that fills no batch is left out; the next epoch starts a new order."""
    steps = steps_per_epoch(num, size)
    for epoch in range(3):
        batches = [batch_at(epoch * steps + k, 5, num, size) for k in range(steps)]
        assert {e for e, _ in batches} == {epoch}
        assert all(len(ids) == size for _, ids in batches)
        seen = np.concatenate([ids for _, ids in batches])
        assert len(set(seen.tolist())) == steps * size
        assert np.array_equal(seen, epoch_order(5, epoch, num)[: steps * size])


def test_data_smaller_than_a_batch_is_an_error_with_the_cure():
    """Not an endless loop."""
    with pytest.raises(DataError, match=r"7 samples, less than one batch of 8; set train\.batch_size to at most 7"):
        batch_at(0, 0, 7, 8)


MANY = LISTED + 12_345  # more than a power of four, so that three quarters of the network's numbers are out of range


@pytest.mark.parametrize("num", [*range(1, 70), *(2**k + d for k in (7, 8, 9, 10, 16) for d in (-1, 0, 1))])
def test_the_network_is_a_permutation_of_every_size(num):
    """Every sample once: powers of two, of four, and their neighbours."""
    assert np.array_equal(np.sort(permuted(3, 1, num, np.arange(num))), np.arange(num))


def test_up_to_the_limit_the_order_is_the_sorted_list_and_beyond_it_the_network():
    """No number of a smaller data set changes."""
    some = np.array([0, 5, LISTED - 1])
    assert np.array_equal(order_at(1, 2, LISTED, some), epoch_order(1, 2, LISTED)[some])
    assert np.array_equal(order_at(1, 2, LISTED + 1, some), permuted(1, 2, LISTED + 1, some))


def test_the_network_of_seed_0_stays_what_it_was():
    """Golden, from this code at its first release; `ORDER` has to change with it, or cut-off runs mix two orders."""
    assert permuted(0, 0, MANY, np.arange(4)).tolist() == [3118314, 2708449, 2227062, 3968749]
    assert sampling.ORDER == "feistel"


def surprise(numbers, parts: int) -> float:
    """Chi-square of equal parts of [0, MANY), in standard deviations from its mean."""
    counts = np.bincount(numbers * parts // MANY, minlength=parts)
    expected = len(numbers) / parts
    return float((((counts - expected) ** 2 / expected).sum() - (parts - 1)) / np.sqrt(2 * (parts - 1)))


def surprises() -> list[float]:
    """Of positions, of an epoch's neighbours and of numbers that share a half, and of one position over epochs."""
    places = np.arange(100_000)
    order = permuted(0, 0, MANY, places)
    steps = [(permuted(0, 0, MANY, (places + stride) % MANY) - order) % MANY for stride in (1, 1 << 12)]
    first = np.concatenate([permuted(0, epoch, MANY, np.array([7])) for epoch in range(1000)])
    return [surprise(order, 256), *(surprise(step, 256) for step in steps), surprise(first, 16)]


def test_the_network_scatters():
    """All within five standard deviations, each sample once."""
    assert max(map(abs, surprises())) < 5
    assert len(set(permuted(0, 0, MANY, np.arange(100_000)).tolist())) == 100_000


@pytest.mark.parametrize("rounds", [1, 2])
def test_the_chi_square_sees_a_network_of_too_few_rounds(rounds, monkeypatch):
    """Otherwise the bound above would say nothing."""
    monkeypatch.setattr(sampling, "_ROUNDS", rounds)
    assert max(surprises()) > 50


def test_an_epoch_of_many_is_pure_and_differs_by_epoch_and_seed():
    """Ranks and workers that ask for parts see its parts; other epochs and seeds share next to nothing."""
    epoch, whole = batch_at(4, 1, MANY, 96)
    assert epoch == 0
    parts = [order_at(1, 0, MANY, np.arange(4 * 96 + start, 4 * 96 + start + 32)) for start in (0, 32, 64)]
    assert np.array_equal(np.concatenate(parts), whole)
    others = [order_at(*key, MANY, np.arange(4 * 96, 5 * 96)) for key in ((1, 1), (2, 0), (0, 1))]
    assert all(np.isin(whole, other).sum() < 3 for other in others)


def test_a_batch_of_a_hundred_million_samples_takes_the_memory_of_a_batch():
    """Counted; a list of the order would take 800 MB."""
    tracemalloc.start()
    try:
        epoch, ids = batch_at(250_000, 0, 10**8, 1024)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert epoch == 2
    assert len(set(ids.tolist())) == 1024
    assert peak < 200 * 1024  # bytes; ten arrays of 1024 numbers are 80 KiB
