"""A configuration to training pairs and a suite."""

from dataclasses import replace

import numpy as np
import pytest

from tests.data.pictures import SPEC, class_set, letters
from tests.image_runs import CLASSES, captions, config, make_data
from tests.models.small import folder as small_folder
from tracerft.config import FinetuneConfig
from tracerft.data.manifest import read_manifest
from tracerft.data.pairs import ImagePairs
from tracerft.errors import ArgumentError, DataError
from tracerft.models.encoder import LoadedModel
from tracerft.models.weights import load_model
from tracerft.sources import expected_collisions, image_spec, is_digits, model_suite, read_parts, run_suite


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pictures in class folders, with captions, and a suite."""
    return make_data(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    """What reading needs of a model: no weights."""
    return LoadedModel(None, letters, "nowhere", SPEC)


def names(split) -> list[str]:
    """Of a split's images."""
    return [s.name for s in split.images.manifest.samples]


def test_digits_are_a_name_or_idx_files(digits_folder, data):
    """Packed or not; anything else is images."""
    assert is_digits("digits")
    assert is_digits(str(digits_folder))
    assert not is_digits(str(data / "photos"))
    assert not is_digits("none")


def test_digits_become_pairs_and_a_suite(digits_folder):
    """A tenth of them is held out, in both ways of showing; two captions collide nearly always."""
    given = FinetuneConfig(model="tiny:random", data=str(digits_folder), out="never")
    parts = read_parts(given, load_model("tiny:random"))
    assert {name: len(s) for name, s in parts.suite.splits().items()} == {
        "id": 60, "original": 60, "colour-random": 60, "colour-flipped": 60, "select-id": 20, "select-original": 20,
    }  # fmt: skip
    assert (len(parts.source), len(parts.classes)) == (180, 2)
    assert parts.collisions == pytest.approx(1.0)
    assert set(read_parts(replace(given, hold_out=0.0), load_model("tiny:random")).suite.selection) == set()


def test_held_out_images_do_not_depend_on_the_seed(data, loaded):
    """They are the suite where none is given, and selection where one is."""
    parts = read_parts(config(data / "photos"), loaded)
    other = read_parts(config(data / "photos", train={"seed": 5}), loaded)
    assert names(parts.suite.id) == names(other.suite.id)
    assert [name.split("/")[0] for name in names(parts.suite.id)] == list(CLASSES)  # a tenth of six, but one at least
    assert parts.suite.splits().keys() == {"id"}
    assert parts.classes == CLASSES
    with_suite = read_parts(config(data / "photos", suite=str(data / "shifts.yaml")), loaded)
    assert list(with_suite.suite.splits()) == ["id", "sketches", "told", "select-id"]
    assert names(with_suite.suite.selection["id"]) == names(parts.suite.id)
    whole = read_parts(config(data / "photos", suite=str(data / "shifts.yaml"), hold_out=0.0), loaded)
    assert (len(whole.source), whole.suite.selection) == (18, {})


def test_templates_reach_pairs_and_prompts(data, loaded):
    """A sentence, and the default of seven."""
    parts = read_parts(config(data / "photos", templates="one {} here"), loaded)
    assert set(parts.source.captions) == {f"one {name} here" for name in CLASSES}
    assert list(parts.suite.id.prompts) == [(f"one {name} here",) for name in CLASSES]
    assert len(read_parts(config(data / "photos"), loaded).suite.id.prompts[0]) == 7


def test_a_class_file_renames_folders(data, loaded):
    """In training and in a suite alike."""
    (data / "names.txt").write_text("dog\thound\ncat\ttabby\ntea pot\tsamovar\n")
    given = config(data / "photos", classes=str(data / "names.txt"))
    parts = read_parts(given, loaded)
    assert parts.classes == ("hound", "tabby", "samovar")
    folders = [name.split("/")[0] for name in names(parts.suite.id)]
    assert set(zip(folders, parts.suite.id.labels.tolist(), strict=True)) == {("dog", 0), ("cat", 1), ("tea pot", 2)}


def test_columns_reach_the_table(data, loaded):
    """Their names are the configuration's."""
    text = (data / "pairs.csv").read_text().replace("image,caption", "caption,bild")
    (data / "bilder.csv").write_text(text)
    parts = read_parts(config(data / "bilder.csv", columns={"image": "caption", "caption": "bild"}), loaded)
    assert parts.source.captions[0] == "picture number 1"  # the first is held out
    assert parts.classes == ()
    assert parts.collisions == 0.0
    assert parts.suite.id.labels is None


def test_expected_collisions_are_those_of_the_batches(data, tmp_path):
    """Three classes of six: a pair has a twin unless the rest of the batch is of other classes."""

    def of(source, size, **options):
        return expected_collisions(ImagePairs(read_manifest(source), SPEC, letters, **options), size)

    one = {"templates": ["a {}"]}
    assert of(data / "photos", 18, **one) == 1.0
    without_twin = np.prod([(12 - i) / (17 - i) for i in range(2)])  # two others, none of the five of one's class
    assert of(data / "photos", 3, **one) == pytest.approx(1 - without_twin, abs=1e-12)
    assert of(data / "photos", 3, templates=[f"{i} {{}}" for i in range(50)]) < 0.02
    assert of(data / "pairs.csv", 18) == 0.0
    assert of(captions(tmp_path / "same.csv", ["same"] * 4), 100) == 1.0


def test_a_share_that_holds_nothing_out_says_so(loaded, tmp_path):
    """Of classes with one image each."""
    class_set(tmp_path / "photos", CLASSES, 1)
    with pytest.raises(ArgumentError, match=r"`suite` must be given when `hold_out` 0\.1 keeps none of 3 images out"):
        read_parts(config(tmp_path / "photos", hold_out=0.1), loaded)


def test_a_run_is_evaluated_with_its_own_classes_and_templates(data, loaded):
    """On its own suite, on another, on digits that know their classes."""
    given = config(data / "photos", templates="one {} here")
    assert names(run_suite(given, loaded, None).id) == names(read_parts(given, loaded).suite.id)
    other = run_suite(given, loaded, str(data / "sketches"))
    assert list(other.id.prompts) == [(f"one {name} here",) for name in CLASSES]
    assert set(other.id.labels.tolist()) == {1, 2}
    assert len(run_suite(given, loaded, str(data / "shifts.yaml")).shifts["told"]) == 12


def test_a_model_without_a_run_takes_the_suites_classes(data, loaded, digits_folder):
    """Two classes if it shows two."""
    suite = model_suite(loaded, str(data / "sketches"), "a {}")
    assert [prompt for (prompt,) in suite.id.prompts] == ["a dog", "a tea pot"]
    assert list(model_suite(load_model("tiny:random"), str(digits_folder), "simple").splits()) == [
        "id", "original", "colour-random", "colour-flipped",
    ]  # fmt: skip


def test_the_image_size_is_the_models():
    """A model of digits has none and says which ones do."""
    assert image_spec(load_model(small_folder("vit"))).size == (32, 32)
    with pytest.raises(ArgumentError, match="reads 28x28 digits only; for images give open_clip"):
        image_spec(load_model("tiny:random"))


@pytest.mark.parametrize(
    ("source", "options", "kind", "message"),
    [
        ("digit", {}, DataError, r"does not exist; .*did you mean 'digits'\?"),
        ("photos", {"hold_out": 0.0}, ArgumentError, "`suite` must be given when `hold_out` is 0"),
        ("photos", {"suite": "none.yaml"}, DataError, "none.yaml"),
        ("photos", {"templates": "{} and {x}"}, ArgumentError, "no other braces"),
        ("photos", {"broken": "maybe"}, ArgumentError, "`broken` must be one of"),
    ],
)
def test_mistakes_are_one_line(source, options, kind, message, data, loaded):
    """With the option that is wrong."""
    with pytest.raises(kind, match=message) as caught:
        read_parts(config(data / source if source == "photos" else source, **options), loaded)
    assert "\n" not in str(caught.value)
