"""All methods in one setting: what is run, what is chosen, what is made of runs, what stands in the table."""

import json

import pytest

from tests.data.pictures import class_set
from tests.models.small import folder as small_folder
from tracerft.config import FinetuneConfig, TrainConfig
from tracerft.errors import ArgumentError
from tracerft.methods import METHODS
from tracerft.studies import compare, merged, runner, worlds
from tracerft.studies.published import PUBLISHED

CLASSES = ("cat", "dog", "owl")
NAMES = (
    "flyp",
    "tracer",
    "ce_ft",
    "lp_ft",
    "swa",
    "wise_ft",
    "uniform_soup",
    "greedy_soup",
    "model_stock",
    "tpgm",
    "dawin",
)


def in_process(configs, workers, progress=None, read=None):
    """`run_all` without processes."""
    return [runner.finish(config, read) for config in configs]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Pictures of three classes, a suite of one shift, a small open_clip model, two steps."""
    folder = tmp_path_factory.mktemp("compare")
    class_set(folder / "train", CLASSES, 8)
    class_set(folder / "shift", CLASSES, 3)
    (folder / "suite.yaml").write_text("id: {data: shift}\nshifts:\n  other: {data: shift}\n")
    train = TrainConfig(steps=2, batch_size=4, lr=1e-3, device="cpu", checkpoint_every=0)
    base = FinetuneConfig(
        model=small_folder("vit"),
        data=str(folder / "train"),
        out=str(folder / "out"),
        suite=str(folder / "suite.yaml"),
        hold_out=0.3,
        train=train,
    )
    return worlds.folder_world(base, 2)


@pytest.fixture(scope="module")
def study(world, tmp_path_factory):
    """Two seeds of some methods at one strength, and how many steps of TPGM were asked for."""
    from pathlib import Path

    out = Path(world.base.out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "run_all", in_process)
        patch.setattr(merged, "run_all", in_process)
        compare.run(out, world, methods=NAMES, seeds=2, budget=1)
    return json.loads((out / "study.json").read_text()), out


def test_every_wanted_method_has_a_row_at_both_seeds(study):
    """Paths and merges too, and the start, which costs nothing."""
    found, _ = study
    chosen = {row["id"]: row for row in found["rows"] if row["selected"]}
    assert set(chosen) == {*NAMES, "wise_ce", "zero_shot"}
    assert {row["n"] for row in chosen.values()} == {2}
    assert chosen["zero_shot"]["cost"] is None
    assert chosen["flyp"]["cost"]["mean"] == pytest.approx(1.0, rel=1e-6)
    assert chosen["tracer"]["strength"] == 3.0
    assert chosen["tracer"]["published_ood"] == PUBLISHED["tracer"][1]
    assert chosen["swa"]["published_ood"] is None
    assert 0 < chosen["tracer"]["pretrained_share"] < 100


def test_rows_are_the_runs(study):
    """An average is what is reported of swa, the student of the others."""
    found, out = study
    rows = {row["id"]: row for row in found["rows"] if row["selected"]}
    for name, model, folder in (
        ("swa", "average", "swa-0"),
        ("tracer", "student", "tracer-3"),
        ("ce_ft", "student", "ce_ft-0"),
    ):
        for seed in (0, 1):
            record = json.loads((out / "runs" / f"{folder}-seed{seed}" / "record.json").read_text())
            assert rows[name]["task"]["values"][seed] == pytest.approx(100 * record["results"][model]["id"]["top1"])


def test_members_of_a_soup_share_the_start_and_differ_in_order_and_rate(study):
    """One is the run itself."""
    _, out = study
    configs = [
        json.loads((out / "runs" / f"ce_ft-0-seed0{end}" / "record.json").read_text())["config"]
        for end in ("", "-member1", "-member2")
    ]
    assert len({c["model"] for c in configs}) == 1
    assert len({c["train"]["seed"] for c in configs}) == 3
    assert [c["train"]["lr"] for c in configs] == pytest.approx([1e-3, 1e-3, 1e-3 / 3])


def test_what_is_finished_is_tabled_without_a_run(study, world, tmp_path, monkeypatch):
    """Nothing is started, and nothing at all is an error."""
    found, out = study

    def never(*_, **__):
        raise AssertionError

    monkeypatch.setattr(compare, "run_all", never)
    monkeypatch.setattr(merged, "run_all", never)
    compare.run(out, world, methods=NAMES, seeds=2, budget=1, only_finished=True)
    assert json.loads((out / "study.json").read_text())["rows"] == found["rows"]
    compare.run(out, world, seeds=2, budget=5, only_finished=True)
    rows = json.loads((out / "study.json").read_text())["rows"]
    assert {r["id"] for r in rows if r["selected"]} == {*NAMES, "wise_ce", "zero_shot"}
    compare.run(out, world, methods=NAMES, seeds=2, budget=1, only_finished=True)
    with pytest.raises(ArgumentError, match="no run of these methods is finished"):
        compare.run(out, world, methods=("carot",), only_finished=True)


def test_every_method_is_compared_or_said_not_to_be():
    """With all methods: each of the table has an arm, is made of runs, or is named as left out."""
    arms = compare.arms_of((), 5, {"arf": "no pool", "arf_lite": "no captions"})
    made = {*arms, *compare.PATHS, *merged.KINDS, "zero_shot", "arf", "arf_lite"}
    assert set(METHODS) <= made
    for name, strengths in arms.items():
        assert len(strengths) == (5 if METHODS[name].strength else 1)
        assert list(strengths) == sorted(strengths)
    assert {len(s) for s in compare.arms_of((), 3, {}).values()} == {1, 3}
    assert set(PUBLISHED) <= set(METHODS)


def test_an_unknown_method_or_budget_is_named():
    """With what there is."""
    with pytest.raises(ArgumentError, match=r"`methods` .*tracer"):
        compare.arms_of(("trace",), 5, {})
    with pytest.raises(ArgumentError, match="`budget`"):
        compare.arms_of((), 2, {})


def test_what_was_chosen_at_the_first_seed_stays_chosen(world, tmp_path, monkeypatch):
    """Also where a strength that was run at one seed alone has the higher mean in the end."""
    from dataclasses import replace

    def measures(results, start):
        measures.calls += 1
        return worlds.folder_measures(results, start) | {
            "selection": 100.0 - measures.calls
        }  # the first run wins, then falls

    measures.calls = 0
    monkeypatch.setattr(compare, "run_all", in_process)
    base = replace(world.base, out=str(tmp_path))
    compare.run(tmp_path, replace(world, base=base, measures=measures), methods=("l2_sp",), seeds=2, budget=3)
    rows = [r for r in json.loads((tmp_path / "study.json").read_text())["rows"] if r["id"] == "l2_sp"]
    assert [r["n"] for r in rows if r["selected"]] == [2]
