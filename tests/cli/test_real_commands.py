"""The commands for real models and images: options, dry runs, differences, predictions, exports, mistakes."""

import json
from dataclasses import fields, replace
from importlib import resources

import pytest
import torch
import yaml

import tracerft
from tests.data.pictures import class_set, put, table
from tests.models.small import folder as small_folder
from tracerft.cli.evaluate import ALL_SHIFTS, differences
from tracerft.cli.finetune import build_parser, presets, read_options
from tracerft.cli.main import run
from tracerft.cli.options import described
from tracerft.config import GROUPS, FinetuneConfig, LossConfig, TrainConfig
from tracerft.config_rules import check
from tracerft.describe import teacher_share
from tracerft.errors import ArgumentError
from tracerft.evaluation.resampling import Answers
from tracerft.reports.card import write_card

SMALL = ["--train.batch_size=4", "--train.steps=3", "--train.lr=1e-3", "--train.device=cpu", "--train.warmup_steps=1"]


@pytest.fixture(scope="module")
def model() -> str:
    """A real architecture with random weights."""
    return f"open_clip:local-dir:{small_folder('vit')}"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three classes of eight pictures."""
    return class_set(tmp_path_factory.mktemp("photos") / "train", ("cat", "dog", "tea_pot"), 8)


@pytest.fixture(scope="module")
def finished(model, photos, tmp_path_factory):
    """A short run on them."""
    out = tmp_path_factory.mktemp("real") / "run"
    assert run(["finetune", "--model", model, "--data", str(photos), "--out", str(out), "--hold_out=0.25", *SMALL]) == 0
    return out


@pytest.fixture(scope="module")
def untaught(model, photos, tmp_path_factory):
    """A run of a method without a teacher."""
    out = tmp_path_factory.mktemp("flyp") / "run"
    assert run(["finetune", "--model", model, "--data", str(photos), "--out", str(out), "--method=flyp", *SMALL]) == 0
    return out


def refused(arguments, capsys) -> str:
    """The one line on stderr of a mistake."""
    capsys.readouterr()
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_every_field_of_the_configuration_is_an_option_with_its_help():
    """None is forgotten when the configuration grows."""
    known = {o for action in build_parser()._actions for o in action.option_strings}
    assert {f"--{f.name}" for f in fields(FinetuneConfig)} <= known
    assert {f"--{group}.{f.name}" for group, kind in GROUPS.items() for f in fields(kind)} <= known
    texts = described(FinetuneConfig)
    assert set(texts) == {f.name for f in fields(FinetuneConfig)}
    assert texts["templates"].endswith("a file, or a sentence with {}.")


def test_options_reach_the_configuration():
    """Flat ones, groups, and none at all."""
    given = ["--model=m", "--data=d", "--out=o"]
    assert read_options(given)[0] == FinetuneConfig(model="m", data="d", out="o")
    given += ["--suite=s.yaml", "--templates=a {}.", "--classes=c.txt", "--hold_out=0.5", "--broken=skip"]
    given += ["--augment=false", "--columns.image=noto/{codepoint}.png", "--columns.caption=", "--lora.rank=4"]
    config = read_options(given)[0]
    assert (config.suite, config.templates, config.classes, config.hold_out) == ("s.yaml", "a {}.", "c.txt", 0.5)
    assert (config.broken, config.augment, config.lora.rank) == ("skip", False, 4)
    assert config.columns.named() == {"image": "noto/{codepoint}.png", "caption": ""}


@pytest.mark.parametrize("name", presets())
def test_a_preset_is_a_valid_configuration_that_says_where_its_numbers_come_from(name):
    """OpenAI's weights belong to QuickGELU; a preset of the paper leaves data and folder to the user."""
    given = ["--preset", name, "--out", "o"] + ([] if name == "digits" else ["--data", "d", "--suite", "s.yaml"])
    config = read_options(given)[0]
    check(config)
    assert "/openai" not in config.model or "-quickgelu/" in config.model
    text = (resources.files("tracerft") / "presets" / f"{name}.yaml").read_text()
    assert text.count("#") > (0 if name == "digits" else 5)
    assert max(map(len, text.splitlines())) <= 120
    assert set(yaml.safe_load(text)) <= {f.name for f in fields(FinetuneConfig)}


def test_a_dry_run_says_what_would_happen_and_writes_nothing(model, photos, tmp_path, monkeypatch, capsys):
    """Sizes, collisions, targets, steps, share, memory, time; as text and as JSON."""
    monkeypatch.chdir(tmp_path)
    arguments = ["finetune", "--model", model, "--data", str(photos), "--out", "run", "--dry_run", *SMALL]
    assert run(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "samples    " in out
    assert run([*arguments, "--json", "--lora.rank=2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"model", "method", "samples", "captions", "steps", "average", "memory", "device", "evaluates",
                          "writes", "time"}  # fmt: skip
    assert "3 classes" in found["samples"]
    assert "21 distinct" in found["captions"]
    assert "targets are multi_positive" in found["captions"]
    assert found["steps"].startswith("3 of 4 pairs")
    trained, of, total = found["model"].partition(", ")[2].split()[:3]
    assert of == "of"
    assert 0 < int(trained.replace(",", "")) < int(total.replace(",", "")) / 20  # adapters alone
    assert list(tmp_path.iterdir()) == []


def test_a_run_announces_itself_on_stderr_alone(finished, model, photos, tmp_path, capsys):
    """Also with --json; a folder in use is refused in one line, without."""
    out = tmp_path / "run"
    arguments = ["finetune", "--model", model, "--data", str(photos), "--out", str(out), "--json", *SMALL]
    assert run(arguments) == 0
    printed, err = capsys.readouterr()
    assert set(json.loads(printed)) == {"results"}
    assert "of the final average is the pretrained model" in err
    assert "exists and is not empty" in refused(arguments, capsys)


def test_the_announced_share_is_the_one_that_comes_out(finished):
    """Definition 3.3, before and after."""
    record = json.loads((finished / "record.json").read_text())
    given = {"train": TrainConfig(steps=3), "loss": LossConfig(targets="diagonal")}
    config = FinetuneConfig(model="m", data="d", out="o", **given)
    assert teacher_share(config, 3) == pytest.approx(record["pretrained_weight"], abs=1e-12)
    assert teacher_share(replace(config, method="sd_static"), 3) == 1.0
    assert teacher_share(replace(config, method="sd_ema"), 3) == pytest.approx(0.999**3)
    assert teacher_share(replace(config, method="flyp"), 3) is None


def test_evaluate_prints_paired_differences_to_the_start(finished, photos, capsys):
    """On the run's own split, and on another data set."""
    assert run(["evaluate", str(finished), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = [(m, [name, "pretrained"]) for m in ("top1", "ece_15") for name in ("student", "teacher")]
    assert [(d["metric"], d["models"]) for d in found["differences"]] == expected
    for d in found["differences"]:
        first, second = (found["results"][name]["id"][d["metric"]] for name in d["models"])
        assert d["difference"] == pytest.approx(first - second)
        assert d["ci95"][0] <= d["difference"] <= d["ci95"][1]
        assert d["n"] == found["results"]["student"]["id"]["n"]
    assert run(["evaluate", str(finished), "--suite", str(photos), "--compare", "teacher", "student"]) == 0
    assert "teacher - student" in capsys.readouterr().out


def test_two_runs_are_compared_on_the_images_of_the_first(finished, untaught, photos, tmp_path, capsys):
    """Student with student; the second held out less, so other images have to be named."""
    assert run(["evaluate", str(finished), "--against", str(untaught), "--suite", str(photos), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    a, b = (f"{folder.parent.name}/run" for folder in (finished, untaught))
    assert list(found["results"]) == [f"{a}/{n}" for n in ("pretrained", "student", "teacher")] + [
        f"{b}/{n}" for n in ("pretrained", "student")
    ]
    top1 = {name: of["id"]["top1"] for name, of in found["results"].items()}
    (d,) = (d for d in found["differences"] if d["metric"] == "top1")
    assert d["models"] == [f"{a}/student", f"{b}/student"]
    assert d["difference"] == pytest.approx(top1[d["models"][0]] - top1[d["models"][1]])
    arguments = ["evaluate", str(untaught), "--against", str(finished)]  # the second held out more
    assert run([*arguments, "--compare", f"{a}/teacher", f"{b}/student"]) == 0
    assert "difference in ECE" in capsys.readouterr().out
    line = refused(["evaluate", str(finished), "--against", str(untaught)], capsys)
    assert "`suite` must be given" in line
    assert "trained on images that" in line


def test_runs_of_models_that_read_images_differently_are_evaluated_one_after_the_other(finished, photos, tmp_path):
    """Pictures of 160 pixels and of 32: each run as alone."""
    out = tmp_path / "timm"
    arguments = ["finetune", "--model", f"open_clip:local-dir:{small_folder('timm')}", "--data", str(photos)]
    assert run([*arguments, "--out", str(out), "--hold_out=0.25", *SMALL]) == 0
    found = tracerft.evaluate(finished, photos, against=out)
    alone = tracerft.evaluate(finished, photos).results, tracerft.evaluate(out, photos).results
    expected = {f"run/{n}": r for n, r in alone[0].items()} | {f"timm/{n}": r for n, r in alone[1].items()}
    assert found.results == expected
    assert set(found.answers["id"].confidences) == set(found.results)


def test_differences_average_the_shifts_and_leave_out_what_was_held_out():
    """Each shift counts as much as the others."""
    right, wrong = torch.ones(4, dtype=torch.long), torch.zeros(4, dtype=torch.long)
    sure = {"a": torch.full((4,), 0.75), "b": torch.full((4,), 0.5)}
    found = {
        "id": Answers(right, {"a": right, "b": right}, sure),
        "x": Answers(right, {"a": right, "b": wrong}, sure, "macro_f1"),
        "y": Answers(right, {"a": right, "b": right}, sure, "worst_group", ["g", "g", "h", "h"]),
        "z": Answers(right, {"a": right, "b": wrong}, sure, "worst_group", ["g", "g", "h", "h"]),
        "select-id": Answers(right, {"a": right, "b": wrong}, sure),
    }
    by_metric = {}
    for row in differences(found, [("a", "b")]):
        assert row["ci95"] == [row["difference"]] * 2
        by_metric.setdefault(row["metric"], {})[row["split"]] = row["difference"]
    mean = pytest.approx(2 / 3)
    assert by_metric["top1"] == {"id": 0.0, "x": 1.0, "y": 0.0, "z": 1.0, ALL_SHIFTS: mean}
    assert by_metric["macro_f1"] == {"x": 1.0}
    assert by_metric["worst_group"] == {"y": 0.0, "z": 1.0, ALL_SHIFTS: 0.5}
    # Sure by 3/4 and always right: 1/4 off. Sure by half: half off, right or wrong.
    assert by_metric["ece_15"] == {"id": -0.25, "x": -0.25, "y": -0.25, "z": -0.25, ALL_SHIFTS: -0.25}
    assert differences(found, []) == []


def test_the_mean_of_shifts_resamples_each_by_itself():
    """Two shifts of the same images: the interval shrinks by sqrt(2), which one shared draw would not do."""
    right = torch.arange(300) % 3 > 0
    sure = {"a": torch.linspace(0.3, 1, 300), "b": torch.linspace(0.1, 0.8, 300)}
    one = Answers(torch.ones(300, dtype=torch.long), {"a": right.long(), "b": (~right).long()}, sure)
    rows = differences({"x": one, "y": one}, [("a", "b")])
    width = {(r["metric"], r["split"]): r["ci95"][1] - r["ci95"][0] for r in rows}
    for metric in ("top1", "ece_15"):
        assert width[metric, ALL_SHIFTS] / width[metric, "x"] == pytest.approx(0.5**0.5, rel=0.12)


def test_predict_tells_label_and_confidence_of_both_models(finished, photos, capsys):
    """For files and folders; more labels on request."""
    assert run(["predict", str(finished), str(photos / "cat" / "0.png"), str(photos / "dog")]) == 0
    assert capsys.readouterr().out.count(".png") == 9
    arguments = ["predict", str(finished), str(photos / "cat"), "--json", "--top", "9", "--model", "teacher"]
    assert run(arguments) == 0
    (first, *_) = json.loads(capsys.readouterr().out)["predictions"]
    for name in ("teacher", "pretrained"):
        assert {guess["label"] for guess in first[name]} == {"cat", "dog", "tea pot"}
        assert sum(guess["confidence"] for guess in first[name]) == pytest.approx(1.0, abs=1e-5)
    assert first["image"].endswith("0.png")


def test_an_exported_model_loads_and_its_card_tells_where_it_comes_from(finished, photos, tmp_path, capsys):
    """Data, recipe, results and licence, and no path of this machine."""
    out = tmp_path / "out"
    assert run(["export", str(finished), "--to", "open_clip", "--out", str(out), "--license", "mit"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\nlibrary_name: open_clip\n")
    assert all(part in card for part in ("## Data", "## Recipe", "## Results", "cat, dog, tea pot", "| id | student |"))
    assert str(photos.parent) not in card
    assert "/tmp" not in card
    assert run(["evaluate", str(out), "--suite", str(photos), "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert set(results["results"]) == {"model"}
    assert results["differences"] == []


def test_a_card_without_a_run_says_so(tmp_path):
    """And that the licence is not known."""
    card = write_card(tmp_path, "hf", record=None, model="student", source="/home/x/my|model", license=None).read_text()
    assert "license: unknown" in card
    assert "# my model" in card
    assert "/home" not in card
    assert "not finetuned by a run" in card


def test_inspect_lists_problems_and_exits_with_0(photos, tmp_path, capsys):
    """Broken and repeated files, leaks, captions that are too long; as text and as JSON."""
    data = class_set(tmp_path / "data", ("cat", "dog"), 2)
    (data / "cat" / "bad.png").write_bytes(b"no image")
    put(data / "dog" / "again.png", seed=100)
    assert run(["inspect", str(data), "--against", str(photos), "--batch_size", "4"]) == 0
    out = capsys.readouterr().out
    assert "! 1 broken images" in out
    assert "! 1 images occur twice" in out
    assert "images of the other set are in this one" in out
    assert run(["inspect", str(data), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"]["broken"]["count"] == 1


def test_inspect_reads_both_sets_with_the_columns_told(tmp_path, capsys):
    """Those of the first for the other too, but for those that are said to be its own."""
    one = table(tmp_path / "a", "Bild,Text,Datei\na.png,red,x\nb.png,blue,x\n", "one.csv")
    same = table(tmp_path / "a", "Datei,Text,Bild\nx,red,b.png\n", "same.csv", images=())
    other = table(tmp_path / "b", "photo no,caption\nb.png,red\n", "other.csv")
    given = ["inspect", str(one), "--columns.image", "Bild", "--json", "--against"]

    def leaks(arguments):
        assert run([*given, *arguments]) == 0
        return json.loads(capsys.readouterr().out)["leaks"]["first"]

    assert leaks([str(same)]) == [["b.png", "b.png"]]
    assert leaks([str(other), "--against_columns.image", "photo no"]) == [["b.png", "b.png"]]
    assert leaks([str(class_set(tmp_path / "set", ("cat",), 1))]) == [["a.png", "cat/0.png"]]
    text = refused([*given, str(other)], capsys)
    assert "other.csv: columns.image names 'Bild', which is not there; columns found: photo no, caption" in text
    assert "(--against_columns.* names the columns of --against)" in text
    assert "no such file" in refused([*given, "nowhere"], capsys)


def test_import_pt_writes_what_another_program_can_read(tmp_path, capsys):
    """And tells the hashes."""
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pt")
    assert run(["import-pt", str(tmp_path / "a.pt"), "--out", str(tmp_path / "a.safetensors"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_tensors"] == 1
    assert (tmp_path / "a.safetensors").is_file()


def test_predicting_without_classes_needs_them(finished, tmp_path, photos, capsys):
    """Given in a file they replace those of the run."""
    (tmp_path / "names.txt").write_text("red\ngreen\n")
    arguments = ["predict", str(finished), str(photos / "cat"), "--json", "--classes", str(tmp_path / "names.txt")]
    assert run(arguments) == 0
    rows = json.loads(capsys.readouterr().out)["predictions"]
    assert {guess["label"] for row in rows for guess in row["student"]} <= {"red", "green"}


def test_a_mistake_is_one_line_with_the_cure(finished, untaught, model, photos, tmp_path, monkeypatch, capsys):
    """Exit 2, and nothing written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    done, cat, used = str(finished), str(photos / "cat"), str(photos)
    cases = [
        (["evaluate", done, "--compare", "student", "techer"], "did you mean 'teacher'?"),
        (["evaluate", done, "--compare", "student"], "expected 2 arguments"),
        (["evaluate", model], "`suite` must be given"),
        (["evaluate", done, "--against", model], "is none; give the folders of finished runs"),
        (["predict", done, "nowhere.png"], "nowhere.png: no such image"),
        (["predict", done, "empty"], "empty: no image in it"),
        (["predict", done, cat, "--model", "techer"], "did you mean 'teacher'?"),
        (["predict", done, cat, "--top", "0"], "`top` must be at least 1"),
        (["predict", str(untaught), cat, "--model", "teacher"], "has no teacher; its method flyp made none"),
        (["predict", "nowhere", cat], "nowhere"),
        (["export", done, "--to", "onx", "--out", "x"], "did you mean 'onnx'?"),
        (["export", done, "--out", "x"], "arguments are required: to"),
        (["export", done, "--to", "open_clip", "--out", used], "is in use"),
        (["export", model, "--to", "open_clip", "--out", "x", "--model", "student"], "leave it out"),
        (["export", str(untaught), "--to", "open_clip", "--out", "x", "--model", "teacher"], "has no teacher"),
        (["inspect", "nowhere"], "no such file or folder"),
        (["inspect", used, "--batch_size", "1"], "`batch_size` must be at least 2"),
        (["inspect", used, "--columns.imag=x"], "did you mean '--columns.image'?"),
        (["import-pt", "nowhere.pt", "--out", "x.safetensors"], "no such file to import"),
        (["import-pt", "nowhere.pt", "--out", "x.pt"], "must end in .safetensors"),
        (["import-pt", "nowhere.pt", "--out", "x.safetensors", "--max_gb", "0"], "`max_gb` must be above 0"),
        (["import_pt", "x"], "did you mean 'import-pt'?"),
    ]
    for arguments, message in cases:
        assert message in refused(arguments, capsys), arguments
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]


def test_a_dry_run_checks_values_as_a_run_does():
    """Before anything is read."""
    from tracerft.api import make_ready

    with pytest.raises(ArgumentError, match="broken"):
        make_ready(FinetuneConfig(model="m", data="d", out="o", broken="ignore"))
