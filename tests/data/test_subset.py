"""A fixed part of a split: its rows are rows of the whole, whatever holds the images."""

import numpy as np
import pytest
import torch

from tests.data.pictures import SPEC
from tests.image_runs import make_data
from tracerft.data.manifest import read_manifest
from tracerft.data.subset import drawn, part_of
from tracerft.data.suite import of_manifest, read_suite


def pixels(split):
    """All images of a split."""
    return torch.cat(list(split.images.image_batches()))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Class folders and a table of captions."""
    return make_data(tmp_path_factory.mktemp("subset"))


def splits(data, digits_folder):
    """One of each kind: files with labels, files with captions, digits."""
    from tracerft.data.suite import digit_suite

    yield of_manifest(read_manifest(data / "photos"), SPEC, ["a {}"])
    yield read_suite(data / "told.csv", SPEC, templates=["a {}"], classes=None).id
    yield digit_suite(digits_folder, "coloured", None).shifts["colour-random"]


def test_rows_are_those_of_the_whole(data, digits_folder):
    """Images, labels and positives, by the positions that `drawn` gives; prompts stay."""
    for split in splits(data, digits_folder):
        part, ids = part_of(split, 7, "guard x"), drawn(len(split), 7, "guard x")
        assert len(part) == len(pixels(part)) == 7
        assert torch.equal(pixels(part), pixels(split)[ids])
        assert part.prompts == split.prompts
        if split.labels is None:
            assert part.positives == [split.positives[i] for i in ids]
        else:
            assert np.array_equal(part.labels, split.labels[ids])


def test_a_small_split_is_taken_whole(data, digits_folder):
    """The very object."""
    for split in splits(data, digits_folder):
        assert part_of(split, len(split), "guard x") is split


def test_what_is_drawn_is_fixed_and_even():
    """The same for equal keys, another for another purpose; over 400 purposes each of 20 is drawn about 100 times."""
    assert np.array_equal(drawn(1000, 50, "a"), drawn(1000, 50, "a"))
    assert not np.array_equal(drawn(1000, 50, "a"), drawn(1000, 50, "b"))
    assert (np.diff(drawn(1000, 50, "a")) > 0).all()
    counts = np.bincount(np.concatenate([drawn(20, 5, f"p{i}") for i in range(400)]), minlength=20)
    assert abs(counts - 100).max() < 4.5 * np.sqrt(400 * 0.25 * 0.75)  # binomial, four and a half deviations
