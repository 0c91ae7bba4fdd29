"""The shift study: its data, and all of it on a few pictures with a small open_clip model."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.data.pictures import class_set, put
from tests.models.small import folder as small_folder
from tracerft.config import FinetuneConfig, TrainConfig
from tracerft.data.pairs import ImagePairs
from tracerft.errors import ArgumentError, DataError
from tracerft.models.weights import load_model, save_model
from tracerft.studies import runner, shift, shift_data
from tracerft.studies.shift_data import ALIGNED, domains, is_emoji, parts, read_domain
from tracerft.studies.worlds import EMA_HALF_LIFE, momentum

STYLES = ("line", "noto", "twemoji")
NUMBER = 24
TEST, HELD = [6, 7, 19], [22, 23]  # the fixed draw among the first 24
SUBGROUPS = ("face-smiling", "face-hand", "animal")


@pytest.fixture(scope="module")
def emoji(tmp_path_factory):
    """24 things in three styles, three classes, a name each."""
    folder = tmp_path_factory.mktemp("emoji")
    rows = ["codepoint,name,subgroup"]
    for i in range(NUMBER):
        rows.append(f"1f6{i:02x},name {i},{SUBGROUPS[i % 3]}")
        for s, style in enumerate(STYLES):
            put(folder / style / f"1f6{i:02x}.png", seed=100 * s + i, width=24, height=24)
    (folder / "captions.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A small model with random weights that was "aligned" on every second name."""
    folder = save_model(load_model(small_folder("vit")).model, tmp_path_factory.mktemp("start") / "model")
    (folder / ALIGNED).write_text(json.dumps([i % 2 == 0 for i in range(NUMBER)]))
    return folder


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    """Domains with class folders; the second lacks a class."""
    folder = tmp_path_factory.mktemp("rooms")
    class_set(folder / "art", ("bed", "chair"), 12)
    class_set(folder / "photo", ("chair",), 5)
    return folder


def config(data, model, **options) -> FinetuneConfig:
    """Two steps of four."""
    train = TrainConfig(steps=2, batch_size=4, lr=1e-3, device="cpu", checkpoint_every=0)
    return FinetuneConfig(model=str(model), data=str(data), out="never", train=train, **options)


def names(split_or_source) -> list[str]:
    """Files of a split's images or of training pairs."""
    held = split_or_source if isinstance(split_or_source, ImagePairs) else split_or_source.images
    return [s.name for s in held.manifest.samples]


def things(style, ids) -> list[str]:
    """Files of some things in a style."""
    return [f"{style}/1f6{i:02x}.png" for i in ids]


def test_emoji_are_split_by_thing(emoji, start):
    """The same things are tested in every style, and never seen in training, in any style."""
    made = parts(config(emoji / "noto", start), load_model(start))
    suite = made.suite
    assert list(suite.splits()) == [
        "id", "line", "twemoji", "names-noto", "names-line", "names-twemoji", "select-id", "select-names",
    ]  # fmt: skip
    assert names(suite.id) == things("noto", TEST)
    for style in STYLES:
        assert names(suite.splits()[f"names-{style}"]) == things(style, TEST)
    assert names(suite.selection["id"]) == names(suite.selection["names"]) == things("noto", HELD)
    assert sorted(names(made.source)) == things("noto", sorted(set(range(NUMBER)) - {*TEST, *HELD}))
    assert 0 < made.collisions < 1


def test_emoji_are_named_and_classed(emoji, start):
    """Classes are subgroups in every template; names are all names, without one; both share their images."""
    made = parts(config(emoji / "noto", start), load_model(start))
    suite = made.suite
    assert made.classes == ("animal", "face hand", "face smiling")
    expected = [made.classes.index(SUBGROUPS[i % 3].replace("-", " ")) for i in TEST]
    assert suite.id.labels.tolist() == suite.shifts["line"].labels.tolist() == expected
    assert len(suite.id.prompts[0]) == len(shift_data.TEMPLATES)
    of_names = suite.shifts["names-line"]
    assert len(of_names.prompts) == NUMBER
    assert [of_names.prompts[label] for label in of_names.labels] == [(f"name {i}",) for i in TEST]
    assert of_names.groups == tuple("aligned" if i % 2 == 0 else "new" for i in TEST)
    assert of_names.images is suite.shifts["line"].images
    assert suite.selection["names"].images is suite.selection["id"].images
    assert set(made.source.captions) == {
        template.replace("{}", name) for template in shift_data.TEMPLATES for name in made.classes
    }


def test_a_start_without_a_list_has_no_aligned_names(emoji):
    """All are new to it."""
    made = parts(config(emoji / "noto", small_folder("vit")), load_model(small_folder("vit")))
    assert made.suite.shifts["names-noto"].groups == ("new",) * len(TEST)


def test_the_split_is_the_same_for_every_seed_and_style(emoji, start):
    """Only the order of training differs."""
    one, other = (config(emoji / style, start) for style in ("noto", "line"))
    other = replace(other, train=replace(other.train, seed=3))
    first, second = (parts(c, load_model(start)) for c in (one, other))
    assert [n.split("/")[1] for n in names(first.source)] == [n.split("/")[1] for n in names(second.source)]
    assert names(second.suite.id) == things("line", TEST)
    assert (first.source.seed, second.source.seed) == (0, 3)


def test_domains_of_class_folders_are_split_by_file(rooms):
    """All of the other domains is tested; a class that one of them lacks stays in the head; there are no names."""
    model = small_folder("vit")
    made = parts(config(rooms / "art", model), load_model(model))
    assert list(made.suite.splits()) == ["id", "photo", "select-id"]
    assert made.classes == ("bed", "chair")
    everything = [s.name for s in read_domain(rooms, "art", "subgroup").samples]
    assert names(made.suite.id) == [everything[i] for i in TEST]
    assert names(made.suite.selection["id"]) == [everything[i] for i in HELD]
    assert len(made.source) == 24 - len(TEST) - len(HELD)
    assert made.suite.shifts["photo"].labels.tolist() == [1] * 5
    assert len(made.suite.shifts["photo"].prompts) == 2


def test_domains_are_folders(rooms, emoji, tmp_path):
    """At least two."""
    assert domains(emoji) == list(STYLES)
    assert (is_emoji(emoji), is_emoji(rooms)) == (True, False)
    (tmp_path / "one").mkdir()
    (tmp_path / ".hidden").mkdir()
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError, match="needs at least two domain folders"):
            domains(folder)


def of(top1, ece=0.1, **groups):
    """Metrics of a split."""
    return {"top1": top1, "ece_15": ece} | (
        {"groups": {name: {"top1": value} for name, value in groups.items()}} if groups else {}
    )


def test_measures_are_percent_and_means_over_styles():
    """Names and selection apart from styles; a group that no split has is left out."""
    splits = {
        "id": of(0.9), "b": of(0.4, 0.2), "c": of(0.6, 0.4), "names-a": of(0.5, aligned=0.8, new=0.1),
        "names-b": of(0.3, aligned=0.6), "select-id": of(0.8), "select-names": of(0.4),
    }  # fmt: skip
    assert shift.measures(splits) == pytest.approx(
        {"in_style": 90, "ood": 50, "ece_id": 10, "ece_ood": 30, "retention": 40, "retention_aligned": 70,
         "retention_new": 10, "selection": 60}
    )  # fmt: skip
    splits = {"id": of(0.9), "b": of(0.4), "names-a": of(0.5, new=0.5), "select-id": of(0.8)}
    assert "retention_aligned" not in shift.measures(splits)
    assert "retention" not in shift.measures({k: v for k, v in splits.items() if k != "names-a"})


def in_process(configs, workers, progress=None, read=None):
    """`run_all` without processes of its own."""
    made = []
    for done, one in enumerate(configs, start=1):
        made.append(runner.finish(one, read))
        if progress:
            progress(done, len(configs), one.out)
    return made


FEW = {key: replace(arm, strengths=arm.strengths[:2] if key == "tracer" else arm.strengths[:1])
       for key, arm in shift.ARMS.items()}  # fmt: skip
SETTINGS = {"steps": 2, "batch_size": 4, "lr": 1e-3}


@pytest.fixture(scope="module")
def study(emoji, tmp_path_factory):
    """The study in small with two seeds, a second call, and how often a start was made."""
    out, made = tmp_path_factory.mktemp("study") / "shift", []

    def shift_start(data, *, seed):
        made.append(seed)
        return load_model(small_folder("vit")), None, torch.arange(NUMBER) % 2 == 0

    done = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shift, "ARMS", FEW)
        patch.setattr(shift, "run_all", in_process)
        patch.setattr(shift, "shift_start", shift_start)
        report = shift.run(out, data=emoji, style="noto", seeds=2, progress=lambda *a: done.append(a), **SETTINGS)
        times = {p: p.stat().st_mtime_ns for p in (out / "runs").rglob("*") if p.is_file()}
        shift.run(out, data=emoji, style="noto", seeds=2, **SETTINGS)
    return out, report, done, times, made


def test_the_study_runs_from_end_to_end(study):
    """A report, a study.json with every point, claims that were tested, and figures that exist."""
    out, report, done, times, made = study
    assert report == out / "report.html"
    assert len(done) == 7 + 6
    assert made == [0, 1]
    assert {p: p.stat().st_mtime_ns for p in times} == times
    found = json.loads((out / "study.json").read_text())
    alphas = {("wise_ft", alpha) for alpha in (0.2, 0.4, 0.6, 0.8)}
    strengths = {(k, s or None) for k, arm in FEW.items() for s in arm.strengths}
    assert {(r["id"], r["strength"]) for r in found["rows"]} == {("zero_shot", None)} | strengths | alphas
    assert {c["id"] for c in found["claims"]} == {"direct-forgets", *(pair[0] for pair in shift.PAIRS)}
    assert len(found["headline"]) == 3
    assert all((out / figure["file"]).is_file() for figure in found["figures"])
    assert len(found["figures"]) == 4
    assert found["study"] == "shift"
    assert "3 styles, with 2 seeds" in found["headline"][0]


def test_strengths_are_selected_at_the_first_seed(study):
    """The chosen ones alone were run at the second; WiSE-FT comes with direct finetuning at both."""
    out = study[0]
    rows = json.loads((out / "study.json").read_text())["rows"]
    for name in {r["id"] for r in rows}:
        of_method = [r for r in rows if r["id"] == name]
        (chosen,) = [r for r in of_method if r["selected"]]
        assert chosen["selection"]["values"][0] == max(r["selection"]["values"][0] for r in of_method)
        assert chosen["n"] == 2
    assert sorted(r["n"] for r in rows if r["id"] == "tracer") == [1, 2]
    assert all(r["n"] == 2 for r in rows if r["id"] == "wise_ft")


def test_the_runs_differ_in_method_loss_and_teacher_only(study):
    """And each seed in its start."""
    records = [json.loads(p.read_text()) for p in (study[0] / "runs").rglob("record.json")]
    assert len(records) == 13
    seen = {json.dumps({k: v for k, v in r["config"]["train"].items() if k != "seed"}) for r in records}
    assert len(seen) == 1
    assert len({r["config"]["data"] for r in records}) == 1
    assert {r["config"]["loss"]["targets"] for r in records} == {"multi_positive"}
    assert all(r["config"]["model"].endswith(f"seed{r['seed']}") for r in records)
    for r in records:
        assert set(r["results"]["student"]["names-line"]["groups"]) == {"aligned", "new"}
    same = [r["results"]["pretrained"] for r in records if r["seed"] == 0]
    assert all(one == same[0] for one in same)


def test_rows_are_the_runs(study):
    """A cell by hand: the mean over the other styles of a run's student and teacher."""
    out = study[0]
    record = json.loads((out / "runs/sd_ema-0.3-seed0/record.json").read_text())
    rows = json.loads((out / "study.json").read_text())["rows"]
    (row,) = [r for r in rows if r["id"] == "sd_ema"]
    for prefix, model in (("", "student"), ("teacher_", "teacher")):
        results = record["results"][model]
        others = 50 * (results["line"]["top1"] + results["twemoji"]["top1"])
        assert row[f"{prefix}ood"]["values"][0] == pytest.approx(others)
        assert row[f"{prefix}in_style"]["values"][0] == pytest.approx(100 * results["id"]["top1"])
    assert row["pretrained_share"] == pytest.approx(100 * record["pretrained_weight"])
    (tracer, _) = [r for r in rows if r["id"] == "tracer"]
    assert 0 < tracer["pretrained_share"] < 100
    assert np.isclose(momentum(100) ** (100 * EMA_HALF_LIFE), 0.5)


def test_a_folder_of_domains_has_no_names_to_keep(rooms, tmp_path, monkeypatch):
    """The given start, the first domain, no claim about names and one figure less."""
    monkeypatch.setattr(shift, "ARMS", {k: replace(arm, strengths=arm.strengths[:1]) for k, arm in FEW.items()})
    monkeypatch.setattr(shift, "run_all", in_process)
    shift.run(tmp_path / "out", data=rooms, model=small_folder("vit"), **SETTINGS)
    found = json.loads((tmp_path / "out/study.json").read_text())
    assert not {"direct-forgets", "tracer-retains"} & {c["id"] for c in found["claims"]}
    assert [figure["file"] for figure in found["figures"]] == [f"figures/{n}.svg" for n in ("accuracy", "shift", "ece")]
    assert found["settings"]["finetuned style"] == "art"
    assert found["settings"]["start"] == small_folder("vit")
    assert not (tmp_path / "out/starts").exists()


def test_an_unknown_style_is_told_before_anything_is_made(rooms, tmp_path):
    """With the ones there are."""
    with pytest.raises(ArgumentError, match=r"`style` .*art"):
        shift.run(tmp_path / "out", data=rooms, style="arts", **SETTINGS)
    assert not (tmp_path / "out").exists()


def test_the_arms_compare_what_the_claims_need():
    """Every pair is of methods of the study; strengths rise; labels cover all."""
    keys = {"zero_shot", "wise_ft", *shift.ARMS}
    assert set(shift.LABELS) == keys
    for _, _, better, worse, measure, _ in shift.PAIRS:
        assert {better, worse} <= keys
        assert measure in {c["key"] for c in shift.COLUMNS}
    for arm in shift.ARMS.values():
        assert list(arm.strengths) == sorted(set(arm.strengths))
