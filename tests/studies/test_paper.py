"""The paper's tables on an ImageNet of a few pictures: what is run, what stands in the rows, what is said."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.data.pictures import class_set
from tests.models.small import folder as small_folder
from tests.studies.small_world import in_process
from tracerft.data.imagenet import imagenet_synsets
from tracerft.errors import ArgumentError, DataError
from tracerft.studies import paper, variants
from tracerft.studies.paper_claims import claims_of
from tracerft.studies.published import paper_tables

BOTH = [s for s in imagenet_synsets("r") if s in imagenet_synsets("a")][:3]
FOUR = ("imagenet_v2", "imagenet_r", "imagenet_a", "imagenet_sketch")
ROWS = ("ZS", "Direct FT", "Model Stock", "ARF", "TRACER")


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """Three classes; all shifts but ObjectNet, two under the names they unpack to."""
    folder = tmp_path_factory.mktemp("imagenet")
    class_set(folder / "train", BOTH, 4)
    for name, each in (("val", 4), ("imagenet-r", 2), ("imagenet-a", 3), ("sketch", 2)):
        class_set(folder / name, BOTH, each)
    class_set(folder / "imagenetv2-matched-frequency-format-val", ("0", "7", "999"), 2)
    return folder


def small(out: Path, imagenet: Path):
    """One sentence in place of eighty, so that a thousand classes take no time."""
    model = small_folder("vit")
    world = paper.paper_world(out, imagenet, "ViT-B/16", seeds=1, model=model, steps=2, batch_size=4)
    return replace(world, base=replace(world.base, templates="a photo of a {}."))


@pytest.fixture(scope="module")
def study(imagenet, tmp_path_factory):
    """A part of Table 2, and Table 10, which has one interval in two steps."""
    out = tmp_path_factory.mktemp("paper")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(variants, "run_all", in_process)
        of = paper_tables()["2"]["ViT-B/16"]
        patch.setitem(of, "accuracy", {row: of["accuracy"][row] for row in ROWS})
        report = paper.run(small(out, imagenet), "ViT-B/16", ("2", "10"))
        assert report == out / "report.html"
        yield json.loads((out / "study.json").read_text()), out


def record(out: Path, name: str):
    """Of a run."""
    return json.loads((out / "runs" / name / "record.json").read_text())


def test_rows_are_the_runs_beside_the_paper(study):
    """Accuracies of the student in percent, the mean over the four shifts of Table 2."""
    found, out = study
    rows = {row["id"]: row for row in found["rows"]}
    assert list(rows) == [*(f"2-{name}" for name in ROWS), "10-1"]
    direct = record(out, "ce_ft-0-seed0")["results"]
    assert set(direct["student"]) == {"id", *FOUR}
    row = rows["2-Direct FT"]
    assert row["imagenet"]["mean"] == pytest.approx(100 * direct["student"]["id"]["top1"])
    assert row["avg_shifts"]["mean"] == pytest.approx(100 * sum(direct["student"][k]["top1"] for k in FOUR) / 4)
    assert (row["published_imagenet"], row["published_avg_shifts"]) == (82.83, 57.08)  # Table 2
    assert (row["n"], row["method"]) == (1, "Table 2: Direct FT")
    assert rows["2-ZS"]["imagenet_r"]["mean"] == pytest.approx(100 * direct["pretrained"]["imagenet_r"]["top1"])
    merged = json.loads((out / "merged" / "model_stock-seed0.json").read_text())
    assert rows["2-Model Stock"]["imagenet_a"]["mean"] == pytest.approx(100 * merged["imagenet_a"]["top1"])
    assert record(out, "ce_ft-0-seed0-twin")["seed"] == 1000
    arf = rows["2-ARF"]
    assert (arf["n"], arf["imagenet"], arf["published_imagenet"]) == (None, None, 82.73)
    assert found["settings"]["not run: ARF"] == "needs captions beside the labels, and a pool"


def test_what_is_not_there_is_blank_and_said(study):
    """ObjectNet lacks, and so the mean of five shifts; the calibration error is the one that is published."""
    found, out = study
    row = next(row for row in found["rows"] if row["id"] == "10-1")
    tracer = record(out, "tracer-0.9-seed0")["results"]["student"]
    assert row["imagenet_ece"]["mean"] == pytest.approx(100 * tracer["id"]["ece_per_batch_10"])
    assert row["imagenet_sketch"]["mean"] == pytest.approx(100 * tracer["imagenet_sketch"]["top1"])
    assert (row["objectnet"], row["avg_shifts"], row["avg_shifts_ece"]) == (None, None, None)
    assert (row["published_objectnet"], row["published_avg_shifts_ece"]) == (58.26, pytest.approx(7.32))  # Table 10
    assert "ObjectNet (objectnet or objectnet-1.0)" in found["headline"][2]
    assert sorted(p.name for p in (out / "runs").iterdir()) == [
        "ce_ft-0-seed0", "ce_ft-0-seed0-twin", "tracer-0.9-seed0",
    ]  # fmt: skip


def test_claims_are_what_the_table_says(study):
    """TRACER above direct finetuning (65.5 against 57.1) and Model Stock; open where there is no run."""
    found, _ = study
    claims = {claim["id"]: claim for claim in found["claims"]}
    assert list(claims) == ["2-TRACER-over-Direct FT", "2-TRACER-over-Model Stock", "2-TRACER-over-ARF"]
    text = "Table 2: TRACER is more accurate under shift than Direct FT (65.5 against 57.1)"
    assert claims["2-TRACER-over-Direct FT"]["paper"] == text
    means = {row["id"]: row["avg_shifts"] for row in found["rows"]}
    gap = means["2-TRACER"]["mean"] - means["2-Direct FT"]["mean"]
    assert claims["2-TRACER-over-Direct FT"]["holds"] is (gap > 0)
    assert (claims["2-TRACER-over-ARF"]["holds"], claims["2-TRACER-over-ARF"]["ours"]) == (None, "not run")


def test_a_smaller_error_is_the_better_one():
    """Table 5: TRACER 7.3 against CaRot 7.9; here it is the other way round, by hand."""

    def row(name, ours, theirs):
        cell = {"mean": ours, "std": None, "values": [ours]}
        told = {"strength": None, "seeds": [0], "avg_shifts_ece": cell, "published_avg_shifts_ece": theirs}
        return {"id": f"5-{name}", "method": f"Table 5: {name}", **told}

    (only,) = claims_of("5", [row("ZS", 1.0, 9.0), row("CaRot", 6.0, 7.9), row("TRACER", 8.0, 7.3)])
    assert (only["id"], only["ours"], only["holds"]) == ("5-TRACER-over-CaRot-ece", "8.0 against 6.0", False)
    assert only["paper"].startswith("Table 5: TRACER has less calibration error under shift than CaRot (7.3 against")
    assert claims_of("5", [row("CaRot", 6.0, 7.0), row("TRACER", 8.0, 7.3)]) == []  # not what such a table says


def test_finished_runs_are_tabled_without_running(study, imagenet):
    """Without the data, too; one run less leaves its rows blank, and none at all is an error."""
    found, out = study
    gone, kept = out / "runs" / "tracer-0.9-seed0", out / "elsewhere"
    gone.rename(kept)
    try:
        paper.run(small(out, imagenet), "ViT-B/16", ("2", "10"), only_finished=True)
    finally:
        kept.rename(gone)
    again = {row["id"]: row for row in json.loads((out / "study.json").read_text())["rows"]}
    assert (again["2-TRACER"]["imagenet"], again["10-1"]["n"]) == (None, None)
    assert again["2-Model Stock"] == next(row for row in found["rows"] if row["id"] == "2-Model Stock")
    paper.run(small(out, imagenet), "ViT-B/16", ("3",), only_finished=True)  # it has no column of a single shift
    (said,) = json.loads((out / "study.json").read_text())["headline"][2:]
    assert said.endswith("mean of shifts: ObjectNet (objectnet or objectnet-1.0).")
    with pytest.raises(ArgumentError, match="no run of these tables is finished"):
        paper.run(small(out / "other", imagenet), "ViT-B/16", ("2",), only_finished=True)


def test_a_folder_without_imagenet_is_one_line(tmp_path):
    """Which folders lack, and what to do."""
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match=r"no folder val in it; expected train and val.*--dry_run"):
        paper.run(small(tmp_path / "out", tmp_path), "ViT-B/16", ("1",))
    assert not (tmp_path / "out").exists()
