"""Batches and splits are pure functions of the data."""

import pickle  # noqa: TID251 - shows that samples travel to worker processes

import numpy as np
import pytest
import torch

from tests.data.pictures import EMOJI, SPEC, class_set, letters, table
from tracerft.data.images import decode, eval_image, normalise, to_pixels
from tracerft.data.manifest import read_manifest
from tracerft.data.pairs import ImagePairs
from tracerft.data.prompts import class_captions, read_templates
from tracerft.data.splits import CaptionedImages, LabelledImages
from tracerft.errors import DataError

TEMPLATES = ("a {}", "one {}", "no {}")


def pairs(folder, **options) -> ImagePairs:
    """Pairs of a class folder set."""
    options = {"templates": TEMPLATES, "seed": 3, **options}
    return ImagePairs(read_manifest(folder), SPEC, letters, **options)


def same(a, b) -> bool:
    """Whether two batches are bitwise equal."""
    return all(
        torch.equal(getattr(a, name), getattr(b, name))
        for name in ("images", "tokens", "labels", "caption_ids", "sample_ids")
    )


def test_a_batch_depends_on_samples_and_epoch_only(tmp_path):
    """Threads, cache, order of calls, other samples in the batch and pickling change nothing."""
    class_set(tmp_path)
    ids = np.array([4, 0, 2])
    base = pairs(tmp_path, threads=1, cache_bytes=0).batch(ids, 1)
    other = pairs(tmp_path, threads=3)
    other.batch(np.array([2, 1]), 0)
    torch.manual_seed(99)
    assert same(base, other.batch(ids, 1))
    assert same(base, pickle.loads(pickle.dumps(other)).batch(ids, 1))  # noqa: S301
    whole = other.batch(np.arange(6), 1)
    assert torch.equal(whole.images[ids], base.images)
    assert torch.equal(whole.caption_ids[ids], base.caption_ids)
    assert not torch.equal(base.images, other.batch(ids, 2).images)
    assert base.images.shape == (3, 3, 32, 32)
    assert base.labels.tolist() == [1, 0, 0]


def test_captions_of_classes_are_drawn_evenly(tmp_path):
    """Every template occurs, tokens are those of the drawn caption, equal ids mean equal captions."""
    source = pairs(class_set(tmp_path, each=1))
    assert source.captions == ("a cat", "one cat", "no cat", "a dog", "one dog", "no dog")
    draws = np.concatenate([source.draw_captions(np.array([0, 1]), epoch) for epoch in range(300)])
    counts = np.bincount(draws, minlength=6)
    assert counts.min() > 60
    batch = source.batch(np.array([1, 0, 1]), 0)
    assert torch.equal(batch.tokens, letters([source.captions[i] for i in batch.caption_ids]))
    assert batch.caption_ids[0] == batch.caption_ids[2]


def test_own_captions_win_and_equal_text_has_one_id(tmp_path):
    """Captions of the images are used as they are; two images with one caption share its id."""
    path = table(tmp_path, "image,caption,label\na.png,red,x\nb.png,red,y\nb.png,blue,y\n")
    source = pairs(path)
    assert source.captions == ("red", "blue")
    drawn = {int(i) for epoch in range(30) for i in source.draw_captions(np.array([1]), epoch)}
    assert drawn == {0, 1}
    assert source.batch(np.array([0, 1]), 0).labels.tolist() == [0, 1]


def test_without_augmentation_training_sees_evaluation_images(tmp_path):
    """`augment=False` is the evaluation transform."""
    source = pairs(class_set(tmp_path), augment=False)
    image = decode(source.manifest.read(5), "x")
    expected = normalise(to_pixels(eval_image(image, SPEC))[None], SPEC)
    assert torch.equal(source.batch(np.array([5]), 7).images, expected)


def test_broken_images_are_named_or_replaced(tmp_path):
    """By policy: an error with the file's name, or the same replacement every time, counted once."""
    class_set(tmp_path, each=5)
    (tmp_path / "cat/1.png").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"cat/1\.png: a web page"):
        pairs(tmp_path).batch(np.arange(10), 0)
    source = pairs(tmp_path, broken="skip")
    first = source.batch(np.arange(10), 0)
    replaced = int(first.sample_ids[1])
    assert replaced != 1
    assert torch.equal(first.images[1], first.images[replaced])
    assert first.labels[1] == source.manifest.labels[replaced]
    assert same(first, source.batch(np.arange(10), 0))
    assert same(first, pairs(tmp_path, broken="skip", threads=2).batch(np.arange(10), 0))
    assert source.warnings == ("1 broken images replaced by others: cat/1.png",)


def test_nothing_but_broken_images_is_an_error(tmp_path):
    """Skipping has an end."""
    class_set(tmp_path, each=2)
    for path in tmp_path.glob("*/*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="4 images in a row are broken"):
        pairs(tmp_path, broken="skip").batch(np.array([0]), 0)


def test_hash_covers_what_decides_a_batch(tmp_path):
    """Seed, templates and transform change the hash; threads do not."""
    class_set(tmp_path)
    base = pairs(tmp_path).sha256
    assert pairs(tmp_path, threads=1, cache_bytes=0).sha256 == base
    assert (
        len({base, *(pairs(tmp_path, **o).sha256 for o in ({"seed": 4}, {"templates": ["{}"]}, {"augment": False}))})
        == 4
    )


def test_labelled_split(tmp_path):
    """Prompts, first captions, labels and images in order; a second pass comes from memory."""
    manifest = read_manifest(class_set(tmp_path))
    prompts = class_captions(manifest.classes, TEMPLATES)
    split = LabelledImages(manifest, SPEC, prompts, batch_size=4)
    assert split.prompts[1] == ("a dog", "one dog", "no dog")
    assert split.captions == ("a cat", "a dog")
    assert split.labels.tolist() == [0, 0, 0, 1, 1, 1]
    images = list(split.image_batches())
    assert [len(b) for b in images] == [4, 2]
    for path in tmp_path.glob("*/*.png"):
        path.unlink()
    assert all(torch.equal(a, b) for a, b in zip(images, split.image_batches(), strict=True))
    with pytest.raises(DataError, match="captions for 1 classes"):
        LabelledImages(manifest, SPEC, prompts[:1])


def test_labelled_split_leaves_broken_images_out(tmp_path):
    """Images, labels and hash agree on what is left."""
    class_set(tmp_path)
    whole = LabelledImages(read_manifest(tmp_path), SPEC, [["a"], ["b"]])
    (tmp_path / "cat/1.png").write_bytes(b"\x89PNG")
    split = LabelledImages(read_manifest(tmp_path), SPEC, [["a"], ["b"]], broken="skip")
    assert split.labels.tolist() == [0, 0, 1, 1, 1]
    assert sum(len(b) for b in split.image_batches()) == len(split) == 5
    assert split.warnings[-1] == "1 broken images left out: cat/1.png"
    assert split.sha256 != whole.sha256


def test_a_border_is_cut_off_first(tmp_path):
    """ObjectNet's frame never reaches the model."""
    manifest = read_manifest(class_set(tmp_path))
    framed = next(LabelledImages(manifest, SPEC, [["a"], ["b"]], border=2).image_batches())
    image = decode(manifest.read(0), "x").crop((2, 2, 38, 28))
    assert torch.equal(framed[:1], normalise(to_pixels(eval_image(image, SPEC))[None], SPEC))


def test_captioned_split(tmp_path):
    """Retrieval: distinct captions and which of them belong to each image."""
    manifest = read_manifest(table(tmp_path, "image,caption\na.png,red\nb.png,blue\na.png,blue\n"))
    split = CaptionedImages(manifest, SPEC)
    assert split.captions == ("red", "blue")
    assert [ids.tolist() for ids in split.caption_ids] == [[0, 1], [1]]


def test_templates_by_name_file_and_list(tmp_path):
    """CLIP's own by name; a file has one a line; a single one stands for itself."""
    assert len(read_templates("openai_imagenet")) == 80
    assert read_templates("simple")[1].count("{}") == 1
    (tmp_path / "t.txt").write_text("a {}\r\n\r\nthe {}\n")
    assert read_templates(tmp_path / "t.txt") == ("a {}", "the {}")
    assert read_templates("just {}") == ("just {}",)


@pytest.mark.skipif(EMOJI is None, reason="shared/data/emoji is not beside the repository")
def test_emoji_make_batches():
    """Real images with a palette, several keywords as captions."""
    manifest = read_manifest(
        EMOJI, columns={"image": "openmoji/{codepoint}.png", "caption": "keywords", "label": "group"}, separator=";"
    )
    source = ImagePairs(manifest, SPEC, letters)
    batch = source.batch(np.arange(0, 1586, 50), 0)
    assert batch.images.shape == (32, 3, 32, 32)
    assert torch.isfinite(batch.images).all()
    assert batch.images.std() > 0.5
