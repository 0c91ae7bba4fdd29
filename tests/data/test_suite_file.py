"""Suite files: what is read, and that every mistake is told at once."""

import pytest

from tracerft.data.suite_file import SplitFile, read_suite_file
from tracerft.errors import DataError


@pytest.fixture
def write(tmp_path):
    """Write suite.yaml beside photos/test, sketches and phone.csv."""
    (tmp_path / "photos/test").mkdir(parents=True)
    (tmp_path / "sketches").mkdir()
    (tmp_path / "phone.csv").touch()

    def to_file(text: str):
        (tmp_path / "suite.yaml").write_text(text, encoding="utf-8")
        return tmp_path / "suite.yaml"

    return to_file


def problems(path) -> str:
    """The one-line message."""
    with pytest.raises(DataError) as caught:
        read_suite_file(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_documented_suite_is_read(write, tmp_path):
    """The example of the documentation; paths start at the file, the order is the file's."""
    (tmp_path / "names.txt").write_text("\ufefftabby cat\n  Schäferhund \n\n", encoding="utf-8")
    suite = read_suite_file(
        write(
            "classes: names.txt\ntemplates: openai_imagenet\nid: {data: photos/test}\nshifts:\n"
            "  sketch: {data: sketches}\n  phone: {data: phone.csv, columns: {image: file, label: kind}}\n"
        )
    )
    assert suite.classes == ("tabby cat", "Schäferhund")
    assert suite.templates == "openai_imagenet"
    assert suite.id == SplitFile("id", tmp_path / "photos/test", {})
    assert list(suite.shifts) == ["sketch", "phone"]
    assert suite.shifts["phone"].columns == {"image": "file", "label": "kind"}
    assert suite.shifts["phone"].name == "phone"


def test_the_least_suite(write):
    """Only an ID split: the rest is left to the run."""
    suite = read_suite_file(write("id: {data: sketches}\n"))
    assert (suite.classes, suite.templates, dict(suite.shifts)) == (None, None, {})
    assert (suite.id.metric, suite.id.builder, suite.id.subset) == (None, None, None)


def test_metrics_groups_subsets_and_builders(write):
    """Everything a split can say."""
    suite = read_suite_file(
        write(
            "classes: [cat, dog, cow]\ntemplates: ['a photo of a {}.', 'a {}']\nid: {data: photos/test}\nshifts:\n"
            "  a: {data: phone.csv, label: kind, metric: worst_group, group: country, subset: [dog, cat]}\n"
            "  b: {data: sketches, builder: imagenet-r, metric: top1}\n"
            "  c: {data: sketches, builder: fmow, split: id_test, metric: worst_group}\n"
        )
    )
    a, b, c = suite.shifts.values()
    assert (a.columns, a.metric, a.group, a.subset) == ({"label": "kind"}, "worst_group", "country", ("dog", "cat"))
    assert (b.builder, b.metric, b.split) == ("imagenet-r", "top1", None)
    assert (c.builder, c.split) == ("fmow", "id_test")
    assert suite.templates == ("a photo of a {}.", "a {}")


def test_every_problem_is_listed(write):
    """Nine mistakes, one message."""
    text = problems(
        write(
            "class: names.txt\ntemplates: openai-imagenet\nid: {dta: photos/test}\nshifts:\n"
            "  one: {data: skteches}\n  two: {data: sketches, metric: f1_macro}\n"
            "  three: {data: sketches, metric: worst_group}\n  four: {data: sketches, builder: imagenet_r}\n"
            "  five: {data: phone.csv, columns: {imgae: file}}\n"
        )
    )
    assert "9 problems" in text
    for part in (
        "the file: unknown key 'class' (did you mean 'classes'?)",
        "templates: must be openai_imagenet or simple or sentences with {}; got 'openai-imagenet' (did you mean",
        "id: unknown key 'dta' (did you mean 'data'?)",
        "id.data: is missing",
        "skteches does not exist",
        "shifts.two.metric: must be one of top1, macro_f1, worst_group; got 'f1_macro' (did you mean 'macro_f1'?)",
        "shifts.three.metric: worst_group needs groups",
        "shifts.four.builder: must be one of",
        "shifts.five.columns: unknown key 'imgae' (did you mean 'image'?)",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("shifts: {}", "id: is missing"),
        ("", "the file: must be a table of keys; got nothing"),
        ("- id", "the file: must be a table of keys; got list"),
        ("id: sketches", "id: must be a table of keys; got str, write data: FOLDER"),
        ("id: {data: 3}", "id.data: must be text; got 3"),
        ("id: {data: phone.csv, metric: worst_group, group: }", "id.metric: worst_group needs groups"),
        ("id: {data: phone.csv, group: 3}", "id.group: must be text; got 3, put it in quotes"),
        ("id: {data: sketches}\nshifts: [a]", "shifts: must map names to splits; got list"),
        ("id: {data: sketches}\nshifts: {on: {data: sketches}}", "shifts: True cannot be a name"),
        ("id: {data: sketches}\nshifts: {../x: {data: sketches}}", "'../x' cannot be a name"),
        ("id: {data: sketches}\nshifts: {ID: {data: sketches}}", "'ID' is taken"),
        ("id: {data: sketches}\nshifts: {select-a: {data: sketches}}", "'select-a' is taken"),
        ("id: {data: sketches}\nshifts: {a: {data: sketches}, A: {data: sketches}}", "differ in case only"),
        ("id: {data: sketches}\nclasses: [yes, no]", "classes: entry 1 must be text; got True, put it in quotes"),
        ("id: {data: sketches}\nclasses: []", "classes: must be a list of names; got nothing"),
        ("id: {data: sketches}\nclasses: nowhere.txt", "classes: cannot read"),
        ("id: {data: sketches}\ntemplates: ['a photo']", "each must have one {} for the class name; got 'a photo'"),
        ("id: {data: sketches, label: a, columns: {label: b}}", "id.label: is said twice"),
        ("id: {data: sketches, split: test}", "id.split: is for the builders iwildcam and fmow"),
        ("id: {data: sketches, builder: fmow, split: tst}", "(did you mean 'test'?)"),
        ("id: {data: sketches, builder: imagenet, group: g}", "id.group: does not go with builder imagenet"),
        ("classes: [cat, dog]\nid: {data: sketches, subset: [cta]}", "'cta' is not in classes (did you mean 'cat'?)"),
        ("id: {data: sketches}\nid: {data: photos}", "line 2: the key 'id' is there twice"),
        ("id: &a {data: sketches}\nshifts: {x: *a}", "aliases (*name) are not read"),
        ("id: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("id: {data: [", "correct the YAML"),
        ("[" * 5000, "is not YAML"),
        ("id: 2026-13-45", "is not YAML"),
    ],
)
def test_mistakes_say_what_and_where(write, text, part):
    """One line, with the field and the cure; nothing is executed."""
    assert part in problems(write(text))


def test_unreadable_files(tmp_path):
    """Missing, a folder, no text, too large."""
    assert "cannot read" in problems(tmp_path / "none.yaml")
    assert "cannot read" in problems(tmp_path)
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    assert "no UTF-8 text" in problems(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_bytes(b"#" * (1 << 21))
    assert "larger than" in problems(tmp_path / "b.yaml")
