"""What a data set is read as."""

import hashlib
import json
import os

import numpy as np
import pytest

from tests.data.pictures import EMOJI, class_set, encoded, picture, put, table, tar
from tracerft.data.classes import match_classes
from tracerft.data.manifest import manifest_of_files, read_manifest
from tracerft.errors import DataError


def test_class_folders_are_sorted_and_named(tmp_path):
    """Folder names are class names, `_` and `-` read as spaces; deeper images belong to the top folder."""
    class_set(tmp_path, ("hot_dog", "ice-cream"))
    put(tmp_path / "hot_dog/deep/er/9.JPG", seed=9)
    put(tmp_path / ".hidden/1.png")
    put(tmp_path / "hot_dog/.thumb.png")
    manifest = read_manifest(tmp_path)
    assert manifest.classes == ("hot dog", "ice cream")
    assert [s.name for s in manifest.samples][:4] == [
        "hot_dog/0.png", "hot_dog/1.png", "hot_dog/2.png", "hot_dog/deep/er/9.JPG",
    ]  # fmt: skip
    assert manifest.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert not manifest.has_captions
    assert manifest.warnings == ()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("captions.csv", "image,caption\na.png,red\nb.png,blue\n"),
        ("captions.csv", "\ufeffimage,caption\r\na.png,red\r\nb.png,blue\r\n"),
        ("captions.csv", "Datei;Text\na.png;red\nb.png;blue\n"),
        ("captions.tsv", "file name\tText\na.png\tred\nb.png\tblue"),
        ("captions.txt", "image|caption\na.png| red\n\nb.png|blue\n"),
        ("captions.csv", 'image,caption,note\na.png,"red","x, y"\nb.png,blue,\n'),
        ("captions.csv", "image,caption\na.png,red,\nb.png,blue,,\n"),
        ("captions.jsonl", '{"image": "a.png", "text": "red"}\n{"image": "b.png", "text": ["blue"]}\n'),
        ("captions.csv", "image,caption\na.png,red\nb.png,blue\n".encode("utf-16")),
        ("captions.csv", "image,caption\na.png,red\nb.png,blue\n".encode("utf-16-le")),
        ("captions.csv", "image,caption\ra.png,red\rb.png,blue\r"),
    ],
)
def test_tables_in_many_spellings_are_one_set(tmp_path, name, text):
    """Delimiter, byte order mark, line ends, quotes and encoding do not matter."""
    path = table(tmp_path, text, name)
    columns = {"image": "Datei", "caption": "Text"} if b"Datei" in path.read_bytes() else None
    manifest = read_manifest(tmp_path, columns=columns)
    assert [(s.name, s.captions) for s in manifest.samples] == [("a.png", ("red",)), ("b.png", ("blue",))]
    assert read_manifest(path, columns=columns).sha256 == manifest.sha256
    assert manifest.labels is None


def test_several_captions_of_an_image(tmp_path):
    """Repeated rows, a separator and JSON lists all give one sample with several captions."""
    rows = table(tmp_path / "rows", "image,caption\na.png,red\nb.png,blue\na.png,crimson\na.png,red\n")
    cells = table(tmp_path / "cells", "image,caption\na.png,red;crimson\nb.png,blue\n")
    lists = table(
        tmp_path / "lists",
        '{"image": "a.png", "caption": ["red", "crimson"]}\n{"image": "b.png", "caption": "blue"}',
        "captions.jsonl",
    )
    sets = [read_manifest(rows), read_manifest(cells, separator=";"), read_manifest(lists)]
    assert {m.sha256 for m in sets} == {sets[0].sha256}
    assert sets[0].samples[0].captions == ("red", "crimson")
    assert sets[0].warnings == ("1 captions repeated for the same image counted once",)


def test_patterns_fill_columns(tmp_path):
    """A pattern builds paths and captions from other columns."""
    path = table(tmp_path, "id,name\na,red\nb,blue\n")
    manifest = read_manifest(path, columns={"image": "{id}.png", "caption": "a {name} thing"})
    assert manifest.samples[1].captions == ("a blue thing",)


def test_labels_by_name_number_and_position(tmp_path):
    """Class names given by the user fit labels that are names, numbers, keys or sorted folders."""
    names = table(tmp_path / "n", "image,label\na.png,Dog\nb.png,cat\n")
    numbers = table(tmp_path / "i", "image,label\na.png,1\nb.png,0\n")
    for path in (names, numbers):
        assert read_manifest(path, classes=["cat", "dog"]).labels.tolist() == [1, 0]
    assert read_manifest(names).classes == ("Dog", "cat")
    assert "no names" in read_manifest(numbers).warnings[0]
    folders = class_set(tmp_path / "f", ("n01", "n02"), each=2)
    assert read_manifest(folders, classes=["cat", "dog"]).classes == ("cat", "dog")
    (tmp_path / "names.txt").write_text("n02\tdog\nn01\tcat\nn03\tcow\n")
    keyed = read_manifest(folders, classes=tmp_path / "names.txt")
    assert (keyed.classes, keyed.labels.tolist()) == (("dog", "cat", "cow"), [1, 1, 0, 0])


def test_hash_follows_content_and_not_dates(tmp_path):
    """Name, size, caption and label count; the date and the folder do not."""
    class_set(tmp_path / "one")
    class_set(tmp_path / "two")
    os.utime(tmp_path / "two/cat/0.png", (1, 1))
    base = read_manifest(tmp_path / "one").sha256
    assert read_manifest(tmp_path / "two").sha256 == base
    (tmp_path / "two/cat/0.png").write_bytes(encoded(picture(50, 50)))
    assert read_manifest(tmp_path / "two").sha256 != base
    (tmp_path / "one/dog/2.png").rename(tmp_path / "one/cat/9.png")
    assert read_manifest(tmp_path / "one").sha256 != base


def test_groups_are_read_where_asked_for_and_are_part_of_the_hash(tmp_path):
    """From tables (a pattern too), JSON in tars and saved sets; a hash without them is as it always was."""
    rows = '{"image": "a.png", "label": "x", "year": 2020, "at": "n"}\n{"image": "b.png", "label": "x", "year": 2021}\n'
    path = table(tmp_path / "t", rows, "s.jsonl")
    plain, years = read_manifest(path), read_manifest(path, columns={"group": "year"})
    assert (plain.groups, years.groups) == (None, ("2020", "2021"))
    assert years.subset([1]).groups == ("2021",)
    pattern = read_manifest(path, columns={"group": "{year}/{at}"})
    assert pattern.groups == ("2020/n", "2021/")
    assert len({m.sha256 for m in (plain, years, pattern)}) == 3
    lines = [["a.png", plain.samples[0].size, [], 0], ["b.png", plain.samples[1].size, [], 0]]
    whole = "".join(json.dumps(line) for line in (["tracerft manifest 1", ["x"]], *lines))
    assert plain.sha256 == hashlib.sha256(whole.encode()).hexdigest()
    note = json.dumps({"label": "x", "place": "sea"}).encode()
    tar(tmp_path / "s.tar", [("0.png", encoded()), ("0.json", note), ("1.png", encoded()), ("1.json", note)])
    assert read_manifest(tmp_path / "s.tar", columns={"group": "place"}).groups == ("sea", "sea")


def test_tar_members_are_read_where_they_lie(tmp_path):
    """Images, captions and labels of a tar equal the same files in a folder."""
    a, b = encoded(picture(seed=1)), encoded(picture(seed=2), "JPEG")
    tar(tmp_path / "s-0.tar", [("x/0.png", a), ("x/0.txt", b"a cat\n"), ("x/0.cls", b"1"), ("._0.png", b"mac")])
    tar(
        tmp_path / "s-1.tar",
        [("1.jpg", b), ("1.json", json.dumps({"text": ["a dog"], "label": 0}).encode()), ("2.txt", b"no image")],
    )
    manifest = read_manifest(tmp_path, classes=["dog", "cat"])
    assert [s.name for s in manifest.samples] == ["s-0.tar/x/0.png", "s-1.tar/1.jpg"]
    assert [s.captions for s in manifest.samples] == [("a cat",), ("a dog",)]
    assert manifest.labels.tolist() == [1, 0]
    assert [manifest.read(1), manifest.read(0)] == [b, a]
    assert manifest.warnings == ("1 samples without an image ignored",)
    assert len(read_manifest(tmp_path / "s-0.tar", classes=["dog", "cat"])) == 1


def test_saved_hugging_face_set(tmp_path):
    """A saved data set is read without decoding, and its class names are kept in their order."""
    datasets = pytest.importorskip("datasets", reason="extra `data` is not installed")
    features = datasets.Features(
        {
            "photo": datasets.Image(),
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["z", "a"]),
            "place": datasets.ClassLabel(names=["sea", "land"]),
        }
    )
    images = [encoded(picture(seed=i)) for i in range(3)]
    rows = {"photo": [{"bytes": i, "path": None} for i in images], "text": ["x", "y", "z"], "label": [0, 1, 0]}
    rows["place"] = [1, 1, 0]
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "set"))
    manifest = read_manifest(tmp_path / "set")
    assert manifest.classes == ("z", "a")
    assert manifest.labels.tolist() == [0, 1, 0]
    assert [s.size for s in manifest.samples] == [len(i) for i in images]
    assert manifest.read(2) == images[2]
    assert read_manifest(tmp_path / "set", columns={"group": "place"}).groups == ("land", "land", "sea")
    assert read_manifest(tmp_path / "set", columns={"group": "text"}).groups == ("x", "y", "z")


def test_links_inside_the_folder_are_followed(tmp_path):
    """A link to a file or folder below the root counts; a folder linked into itself is gone through once."""
    class_set(tmp_path / "set")
    (tmp_path / "set/cat/link.png").symlink_to(tmp_path / "set/dog/0.png")
    (tmp_path / "set/cat/again").symlink_to(tmp_path / "set/cat")
    manifest = read_manifest(tmp_path / "set")
    assert len(manifest) == 7
    assert "links to folders" in manifest.warnings[0]


def test_root_widens_what_a_table_may_name(tmp_path):
    """Absolute paths and `..` are fine below the given root; names start from it."""
    put(tmp_path / "images/a.png")
    path = table(tmp_path / "t", f"image,caption\nimages/a.png,red\n{tmp_path}/images/a.png,crimson\n", images=())
    manifest = read_manifest(path, root=tmp_path)
    assert manifest.samples[0].captions == ("red", "crimson")


def test_strange_names_are_read(tmp_path):
    """Unicode, spaces, newlines and bytes that are not UTF-8."""
    class_set(tmp_path, ("猫", "a b"), each=2)
    put(tmp_path / "猫/line\nbreak.png")
    put(tmp_path / os.fsdecode(b"caf\xe9/\xff.png"))
    put(tmp_path / os.fsdecode(b"caf\xe9/ok.png"))
    manifest = read_manifest(tmp_path)
    assert manifest.classes == ("a b", "café", "猫")
    assert all(manifest.read(i) for i in range(len(manifest)))
    assert len(manifest.sha256) == 64
    json.dumps(manifest.classes).encode()


def test_captions_are_cleaned_not_censored(tmp_path):
    """Emoji and right-to-left text stay, white space is one space, NUL and lone surrogates go with a warning."""
    lines = [r'{"image": "a.png", "caption": "  😀\n שלום  x"}', r'{"image": "b.png", "caption": "a\u0000b\ud800"}']
    manifest = read_manifest(table(tmp_path, "\n".join(lines), "captions.jsonl"))
    assert [s.captions[0] for s in manifest.samples] == ["😀 שלום x", "ab\ufffd"]
    assert "1 captions held NUL" in manifest.warnings[0]


def test_windows_text_is_read_with_a_warning(tmp_path):
    """What is not UTF-8 is read as Windows-1252, and said so."""
    manifest = read_manifest(table(tmp_path, "image;caption\na.png;Größe\n".encode("cp1252")))
    assert manifest.samples[0].captions == ("Größe",)
    assert "Windows-1252" in manifest.warnings[0]


def test_warnings_are_counted(tmp_path):
    """Single images, loose images and other files are told, not refused."""
    class_set(tmp_path, ("cat", "dog"), each=1)
    put(tmp_path / "loose.png")
    (tmp_path / "cat/notes.txt").write_text("x")
    text = " | ".join(read_manifest(tmp_path).warnings)
    assert "2 classes have one image" in text
    assert "1 images outside" in text
    assert "1 files that are no images ignored (.txt)" in text


def test_match_classes_by_name():
    """Case and underscores do not matter; a partial set maps into the whole."""
    assert match_classes(["hot dog", "cat"], ["Cat", "hot_dog"]).tolist() == [1, 0]
    assert match_classes(["a", "b", "c"], ["c"], partial=True).tolist() == [2]
    with pytest.raises(
        DataError, match=r"1 classes are not in the first: dot; 1 classes of the first are missing: dog"
    ):
        match_classes(["dog", "cat"], ["dot", "cat"])
    with pytest.raises(DataError, match="occur twice"):
        match_classes(["missile", "missile"], ["missile"])


def test_relabel_to_another_sets_classes(tmp_path):
    """A shift with fewer classes gets the label ids of the training set."""
    shift = read_manifest(class_set(tmp_path / "s", ("Dog",), each=2)).with_classes(("cat", "dog"))
    assert shift.labels.tolist() == [1, 1]
    assert shift.classes == ("cat", "dog")


def test_listed_files_and_subsets(tmp_path):
    """A published benchmark's list becomes a manifest; a subset keeps its images."""
    paths = [put(tmp_path / f"{i}.png", seed=i) for i in range(4)]
    manifest = manifest_of_files(paths, [0, 1, 0, 1], ["a", "b"])
    part = manifest.subset(np.array([3, 0]))
    assert [part.read(0), part.read(1)] == [paths[3].read_bytes(), paths[0].read_bytes()]
    assert part.labels.tolist() == [1, 0]
    assert part.sha256 != manifest.sha256


@pytest.mark.skipif(EMOJI is None, reason="shared/data/emoji is not beside the repository")
def test_emoji_need_no_conversion():
    """The real set: two styles of one table differ in names and share captions and classes."""
    read = {
        style: read_manifest(
            EMOJI,
            columns={"image": style + "/{codepoint}.png", "caption": "an emoji of {name}", "label": "subgroup"},
        )
        for style in ("noto", "twemoji")
    }
    noto, twemoji = read.values()
    assert len(noto) == len(twemoji) == 1586
    assert len(noto.classes) == 95
    assert noto.samples[0].captions == ("an emoji of grinning face",)
    assert noto.labels.tolist() == twemoji.labels.tolist()
    assert noto.sha256 != twemoji.sha256
