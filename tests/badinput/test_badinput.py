"""No bad input ends in anything but one line that says what is wrong and what to do."""

import random
import sys

import numpy as np
import pytest

from tests.badinput.bad_images import IMAGES
from tests.badinput.bad_sets import MANIFESTS
from tests.data.pictures import SPEC, class_set, encoded, letters, picture, table, tar
from tracerft.data.images import decode
from tracerft.data.manifest import read_manifest
from tracerft.data.pairs import ImagePairs
from tracerft.data.prompts import read_templates
from tracerft.data.splits import CaptionedImages, LabelledImages
from tracerft.errors import ArgumentError, DataError, MissingExtraError, TracerftError
from tracerft.types import ImageSpec


def one_line(error: BaseException) -> None:
    """A message for people: one line, of a length that can be read, printable anywhere."""
    text = str(error)
    assert "\n" not in text
    assert len(text) < 1000
    text.encode()


@pytest.mark.parametrize("kind", MANIFESTS)
def test_bad_data_set(kind, tmp_path):
    """Each is refused when it is read."""
    make, message = MANIFESTS[kind]
    arguments = make(tmp_path)
    with pytest.raises(TracerftError, match=message) as caught:
        read_manifest(**arguments)
    assert type(caught.value) in (DataError, ArgumentError, MissingExtraError)
    one_line(caught.value)


@pytest.mark.parametrize("kind", IMAGES)
def test_bad_image(kind):
    """Each is refused when it is decoded, by name."""
    data, message = IMAGES[kind]
    with pytest.raises(DataError, match=r"cats/1\.jpg: .*" + message) as caught:
        decode(data, "cats/1.jpg")
    one_line(caught.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM"])
def test_damaged_images_end_in_one_type(kind):
    """Random damage to an image gives a picture or a `DataError`, never another exception."""
    whole = encoded(picture(), kind)
    rng = random.Random(kind)
    for _ in range(60):
        data = bytearray(whole[: rng.randrange(1, len(whole) + 1)])
        for _ in range(rng.randrange(4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            assert decode(bytes(data), "x").mode == "RGB"
        except DataError as error:
            one_line(error)


def test_damaged_tars_and_tables_end_in_one_type(tmp_path):
    """Random damage to a tar or a table gives a manifest or an error of ours."""
    packed = tar(tmp_path / "t.tar", [(f"{i}.{e}", b"x" * 40) for i in range(3) for e in ("png", "txt")])
    written = table(tmp_path / "t", 'image,caption\na.png,"x, y"\nb.png,z\n' * 3)
    rng = random.Random(0)
    for path in (packed, written):
        whole = path.read_bytes()
        for _ in range(120):
            data = bytearray(whole[: rng.randrange(1, len(whole) + 1)])
            for _ in range(rng.randrange(4)):
                data[rng.randrange(min(len(data), 1100))] = rng.randrange(256)
            path.write_bytes(data)
            try:
                read_manifest(path)
            except TracerftError as error:
                one_line(error)


def test_images_that_vanish_or_shrink_are_named(tmp_path):
    """Files and tars that change under a run."""
    manifest = read_manifest(class_set(tmp_path / "set"))
    (tmp_path / "set/dog/0.png").unlink()
    with pytest.raises(DataError, match=r"dog/0\.png: cannot be read \(No such file"):
        manifest.read(3)
    path = tar(tmp_path / "t.tar", [("a.png", encoded()), ("a.txt", b"x")])
    manifest = read_manifest(path)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(DataError, match=r"t\.tar/a\.png: \d+ bytes expected, 188 read; the file has changed"):
        manifest.read(0)


def test_missing_package_names_the_extra(tmp_path, monkeypatch):
    """A saved Hugging Face set without `datasets`."""
    for name in ("dataset_info.json", "state.json"):
        (tmp_path / name).write_text("{}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tracerft\[data\]'"):
        read_manifest(tmp_path)


def test_saved_set_without_images(tmp_path):
    """A text data set has no image column."""
    datasets = pytest.importorskip("datasets", reason="extra `data` is not installed")
    datasets.Dataset.from_dict({"image": ["a.png"], "text": ["x"]}).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(DataError, match="'image' is no image column; image columns found: -"):
        read_manifest(tmp_path / "set")
    whole = datasets.Dataset.from_dict({"image": ["a.png"], "text": ["x"]})
    for empty in (datasets.Dataset.from_dict({"image": [], "text": []}), whole.filter(lambda row: False)):
        empty.save_to_disk(str(tmp_path / "none"))
        with pytest.raises(DataError, match="/none: the saved data set is empty; expected at least one row"):
            read_manifest(tmp_path / "none")


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        ("openai_imagenett", r"did you mean 'openai_imagenet'\?"),
        ("a photo", "neither a name .* nor a file"),
        (["a photo"], r"must have \{\} where the class name goes"),
        (["a {} of {name}"], "no other braces"),
        ([], "`templates` is empty"),
        ([""], r"must have \{\}"),
    ],
)
def test_bad_templates(templates, message):
    """Each is refused before anything is read."""
    with pytest.raises(TracerftError, match=message) as caught:
        read_templates(templates)
    one_line(caught.value)


def test_sets_that_do_not_fit_the_task(tmp_path):
    """No captions to train on, no labels to classify, no captions to retrieve, a policy or spec that does not exist."""
    labelled = read_manifest(class_set(tmp_path / "set"))
    captioned = read_manifest(table(tmp_path / "t", "image,caption\na.png,x\n"))
    with pytest.raises(DataError, match="needs labels and templates"):
        ImagePairs(labelled, SPEC, letters)
    with pytest.raises(DataError, match="has no labels"):
        LabelledImages(captioned, SPEC, [["x"]])
    with pytest.raises(DataError, match="no captions"):
        CaptionedImages(labelled, SPEC)
    with pytest.raises(ArgumentError, match=r"did you mean 'skip'\?"):
        ImagePairs(captioned, SPEC, letters, broken="skp")
    with pytest.raises(ArgumentError, match="`resize` must be one of"):
        ImagePairs(captioned, ImageSpec((8, 8), SPEC.mean, SPEC.std, resize="longest"), letters)
    with pytest.raises(DataError, match="no image to evaluate on"):
        LabelledImages(labelled.subset(np.array([], dtype=np.int64)), SPEC, [["a"], ["b"]])
    (tmp_path / "t/a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.png: the file is empty"):
        ImagePairs(captioned, SPEC, letters).batch(np.array([0]), 0)
