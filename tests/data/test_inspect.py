"""What `inspect` finds."""

import itertools
import json

import pytest

from tests.data.pictures import class_set, letters, put, table
from tracerft.data.inspect import inspect_data, inspection_text
from tracerft.data.manifest import read_manifest


def test_images_classes_and_leaks(tmp_path):
    """Broken files, twins and images of the other set are counted and named; the result is JSON."""
    class_set(tmp_path / "train", each=3)
    put(tmp_path / "train/cat/twin.png", seed=0)
    (tmp_path / "train/dog/2.png").write_bytes(b"")
    class_set(tmp_path / "test", ("cat", "dog"), each=1)
    found = inspect_data(
        read_manifest(tmp_path / "train"), against=read_manifest(tmp_path / "test"), batch_size=4, threads=2
    )
    json.dumps(found)
    assert found["images"]["count"] == 7
    assert found["images"]["broken"]["count"] == 1
    assert found["images"]["same_file"] == {"count": 1, "first": [["cat/0.png", "cat/twin.png"]]}
    assert found["classes"]["images"] == [("cat", 4), ("dog", 3)]
    assert found["leaks"]["count"] == 2
    text = inspection_text(found)
    assert "! 1 broken images: dog/2.png: the file is empty" in text
    assert "2 of 2 images of the other set are in this one" in text
    assert "width 40 to 40 (median 40)" in text


def test_captions_and_context(tmp_path):
    """Repeated captions, and those that fill the eight bytes of this tokenizer."""
    path = table(
        tmp_path, "image,caption\na.png,red\nb.png,red\nc.png,a very long caption\n", images=("a.png", "b.png", "c.png")
    )
    found = inspect_data(read_manifest(path), tokenize=letters)
    assert found["captions"]["distinct"] == 2
    assert found["captions"]["repeated"] == {"count": 2, "first": [["red", 2]]}
    assert found["captions"]["too_long"] == {"context": 8, "count": 1, "first": ["a very long caption"]}
    assert "2 captions are not unique: 'red' occurs 2 times" in inspection_text(found)


def test_expected_collisions_equal_enumeration(tmp_path):
    """The closed form equals the mean over every batch and every draw."""
    rows = "a.png,red\na.png,blue\nb.png,red\nc.png,blue\nc.png,red\nc.png,green\n"
    manifest = read_manifest(table(tmp_path, "image,caption\n" + rows, images=("a.png", "b.png", "c.png")))
    pairs = list(itertools.combinations([s.captions for s in manifest.samples], 2))
    chance = sum(sum(x == y for x in a for y in b) / (len(a) * len(b)) for a, b in pairs) / len(pairs)
    found = inspect_data(manifest, batch_size=2)["collisions"]
    assert found["pairs_a_batch"] == pytest.approx(chance, abs=1e-12)
    assert inspect_data(manifest, batch_size=99)["collisions"]["pairs_a_batch"] == pytest.approx(3 * chance, abs=1e-12)
