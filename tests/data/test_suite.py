"""Data sets as splits, and suite files as splits."""

import numpy as np
import pytest
import torch

from tests.data.pictures import SPEC, class_set, put
from tests.image_runs import captions
from tracerft.data.digits import DigitSet, load_digits
from tracerft.data.manifest import read_manifest
from tracerft.data.suite import Split, Suite, digit_suite, of_digits, of_manifest, read_suite
from tracerft.errors import DataError
from tracerft.evaluation.suite import Predictor

TEMPLATES = ("a {}", "the {}")


@pytest.fixture
def folder(tmp_path):
    """An ID set of three classes, a shift with two of them, captions, another class."""
    class_set(tmp_path / "test", ("cat", "dog", "tea_pot"), 2)
    class_set(tmp_path / "sketches", ("Dog", "tea-pot"), 2)
    class_set(tmp_path / "birds", ("bird",), 1)
    captions(tmp_path / "told.csv", ["one", "two", "one"])
    return tmp_path


def read(folder, text, **options):
    """The suite of a file's text."""
    (folder / "suite.yaml").write_text(text)
    return read_suite(folder / "suite.yaml", SPEC, **{"templates": TEMPLATES, "classes": None} | options)


def test_labelled_data_are_classified(folder):
    """Every class in every template."""
    split = of_manifest(read_manifest(folder / "test"), SPEC, TEMPLATES)
    assert split.prompts == (("a cat", "the cat"), ("a dog", "the dog"), ("a tea pot", "the tea pot"))
    assert split.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert split.positives is None
    assert (len(split), split.metric, split.warnings) == (6, "top1", ())
    assert split.sha256 != of_manifest(read_manifest(folder / "test"), SPEC, TEMPLATES[:1]).sha256
    (batch,) = split.images.image_batches()
    assert batch.shape == (6, 3, 32, 32)


def test_captions_are_retrieved(folder):
    """Equal ones are one text with two images."""
    split = of_manifest(read_manifest(folder / "told.csv"), SPEC, TEMPLATES)
    assert split.labels is None
    assert split.prompts == (("one",), ("two",))
    assert split.positives == [[0], [1], [0]]


def test_images_with_neither_are_refused(folder):
    """As they cannot be scored."""
    put(folder / "bare/0.png")
    (folder / "bare.csv").write_text("image\nbare/0.png\n")
    with pytest.raises(DataError) as caught:
        of_manifest(read_manifest(folder / "bare.csv"), SPEC, TEMPLATES)
    assert "\n" not in str(caught.value)


def test_broken_images_are_left_out_with_their_labels(folder):
    """And counted in a warning."""
    (folder / "test/cat/1.png").write_bytes(b"no image")
    split = of_manifest(read_manifest(folder / "test"), SPEC, TEMPLATES, broken="skip")
    assert split.labels.tolist() == [0, 1, 1, 2, 2]
    assert split.warnings == ("1 broken images left out: cat/1.png",)


def test_a_suite_file_gives_every_split_the_same_classes(folder):
    """Those of the ID set; names are matched whatever their spelling; what is retrieved has none."""
    suite = read(folder, "id: {data: test}\nshifts:\n  s: {data: sketches, metric: macro_f1}\n  t: {data: told.csv}\n")
    assert list(suite.splits()) == ["id", "s", "t"]
    assert suite.shifts["s"].prompts == suite.id.prompts
    assert suite.shifts["s"].labels.tolist() == [1, 1, 2, 2]
    assert suite.shifts["t"].labels is None
    assert [split.metric for split in suite.splits().values()] == ["top1", "macro_f1", "top1"]


@pytest.mark.parametrize("given", ["file", "run"])
def test_other_orders_of_classes_are_kept(given, folder):
    """The file's list, or the run's; the file's comes first."""
    order = ("tea pot", "dog", "cat", "bird")
    text = "id: {data: test}\nshifts:\n  s: {data: sketches}\n"
    if given == "file":
        suite = read(folder, f"classes: [{', '.join(order)}]\n{text}", classes=("x",))
    else:
        suite = read(folder, text, classes=order)
    assert [of_class[0] for of_class in suite.id.prompts] == [f"a {name}" for name in order]
    assert suite.id.labels.tolist() == [2, 2, 1, 1, 0, 0]
    assert suite.shifts["s"].labels.tolist() == [1, 1, 0, 0]


def test_the_files_templates_come_first(folder):
    """Then those of the call."""
    suite = read(folder, "templates: ['my {}']\nid: {data: test}\n")
    assert suite.id.prompts[0] == ("my cat",)


def test_a_subset_is_compared_among_itself(folder):
    """Only those classes are in its head."""
    suite = read(folder, "id: {data: test}\nshifts:\n  s: {data: sketches, subset: [tea pot, dog]}\n")
    assert [of_class[0] for of_class in suite.shifts["s"].prompts] == ["a tea pot", "a dog"]
    assert suite.shifts["s"].labels.tolist() == [1, 1, 0, 0]


def test_one_data_set_is_a_suite_of_itself(folder):
    """With its own classes, or a run's."""
    suite = read_suite(folder / "sketches", SPEC, templates=TEMPLATES, classes=None)
    assert (list(suite.splits()), len(suite.id.prompts)) == (["id"], 2)
    suite = read_suite(folder / "sketches", SPEC, templates=TEMPLATES, classes=("cat", "tea pot", "dog"))
    assert suite.id.labels.tolist() == [2, 2, 1, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id: {data: test}\nshifts:\n  s: {data: birds}\n", "1 classes are not in the first: bird"),
        ("classes: [cat, dog]\nid: {data: test}\n", "1 classes are not in the first: tea pot"),
        ("id: {data: test, group: camera}\n", "class folders have no column 'camera' to name the groups; give a table"),
        ("id: {data: told.csv, group: captoin}\n", "group names 'captoin', .*did you mean 'caption'.*: image, caption"),
        ("id: {data: told.csv, group: image}\n", "id.group: .*told.csv has captions and no labels"),
    ],
)
def test_what_does_not_fit_is_one_line(text, message, folder):
    """With the names."""
    with pytest.raises(DataError, match=message) as caught:
        read(folder, text)
    assert "\n" not in str(caught.value)


def test_a_column_of_a_table_names_the_groups(folder):
    """Whatever it is called; broken images go with their group; without it the hash is another."""
    lines = "file,kind,Kamera no.\ntest/cat/0.png,cat,old\ntest/dog/0.png,dog,7\ntest/dog/1.png,dog,old\n"
    (folder / "phone.csv").write_text(lines)
    split = "{data: phone.csv, label: kind, group: Kamera no., metric: worst_group}"
    suite = read(folder, f"id: {{data: test}}\nshifts:\n  phone: {split}\n  plain: {{data: phone.csv, label: kind}}\n")
    phone, plain = suite.shifts["phone"], suite.shifts["plain"]
    assert (phone.groups, phone.metric, phone.ignored_groups) == (("old", "7", "old"), "worst_group", ())
    assert (plain.groups, suite.id.groups) == (None, None)
    assert phone.sha256 != plain.sha256
    (folder / "test/cat/0.png").write_bytes(b"no image")
    broken = read(folder, f"id: {{data: test}}\nshifts:\n  phone: {split}\n", broken="skip")
    assert broken.shifts["phone"].groups == ("7", "old")
    assert broken.shifts["phone"].labels.tolist() == [1, 1]


def test_the_worst_group_is_scored(folder):
    """Right for one camera and wrong for the other: 1 and 0, half of all."""
    rows = ["image,label,camera", "test/cat/0.png,cat,old", "test/dog/0.png,dog,new"]
    (folder / "phone.csv").write_text("\n".join(rows) + "\n")
    split = read(folder, "id: {data: phone.csv, group: camera, metric: worst_group}\n").id
    metrics, _ = _SaysCat().score("model", split)
    assert (metrics["top1"], metrics["metric"]) == (0.5, "worst_group")
    assert (metrics["worst_group"], metrics["worst_group_name"]) == (0.0, "new")
    assert {name: group["top1"] for name, group in metrics["groups"].items()} == {"new": 0.0, "old": 1.0}


class _SaysCat(Predictor):
    """Every image is of class 0."""

    def __init__(self) -> None:
        super().__init__({}, None)

    def logits(self, name, split):
        return torch.tensor([[1.0, 0.0]]).expand(len(split), 2)


def test_a_benchmark_brings_head_metric_and_groups(tmp_path):
    """FMoW in small: worst region, one of them ignored."""
    rows = [
        ("test", "zoo", "2016-01-01", "CHN"),
        ("test", "dam", "2017-03-01", "XXX"),
        ("train", "dam", "2010-01-01", "DEU"),
    ]
    lines = ["split,category,timestamp,country_code", *(f"{s},{c},{t}T00:00:00Z,{p}" for s, c, t, p in rows)]
    (tmp_path / "fmow").mkdir()
    (tmp_path / "fmow/rgb_metadata.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "fmow/country_code_mapping.csv").write_text("name,alpha-3,region\nGermany,DEU,Europe\nChina,CHN,Asia\n")
    for i in range(3):
        put(tmp_path / f"fmow/images/rgb_img_{i}.png", seed=i)
    suite = read(tmp_path, "id: {data: fmow, builder: fmow}\n")
    assert suite.id.groups == ("Asia", "Other")
    assert suite.id.ignored_groups == ("Other",)
    assert suite.id.metric == "worst_group"
    assert suite.id.logit_map(torch.eye(len(suite.id.prompts))).shape[0] == len(suite.id.prompts)
    assert len(suite.id) == 2
    chosen = read(tmp_path, "id: {data: fmow, builder: fmow, metric: macro_f1}\n")
    assert chosen.id.metric == "macro_f1"


def test_digits_are_shown_as_the_task_shows_them(digits_folder):
    """Grey alone for the grey task; the coloured ones with three shifts."""
    held = DigitSet(load_digits(digits_folder, "train").part(0, 10), "coloured")
    suite = digit_suite(digits_folder, "coloured", held)
    assert list(suite.splits()) == ["id", "original", "colour-random", "colour-flipped", "select-id", "select-original"]
    assert [len(split.prompts) for split in suite.splits().values()] == [2, 10, 2, 2, 2, 10]
    assert list(digit_suite(digits_folder, "grey", None).splits()) == ["id"]
    split = of_digits(held)
    assert split.prompts == [[caption] for caption in held.captions]
    assert np.array_equal(split.labels, held.labels)
    assert split.sha256 == held.sha256


def test_selection_splits_are_named_so():
    """After the others."""
    split = Split(None, None, [])
    assert list(Suite(split, {"s": split}, {"id": split}).splits()) == ["id", "s", "select-id"]
