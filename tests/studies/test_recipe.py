"""The study behind folder-small's default: every candidate runs at every seed, with its own options."""

import json

import pytest

from tests.studies.small_world import in_process, small_world
from tracerft.studies import recipe, variants

FEW = ("flyp", "ftp", "tracer-fd-10", "tracer-fd-1-half")


@pytest.fixture(scope="module")
def study(tmp_path_factory, small_model, digits_folder):
    """Four candidates at two seeds."""
    out = tmp_path_factory.mktemp("recipe")
    world = small_world(out, small_model, digits_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(variants, "run_all", in_process)
        patch.setattr(recipe, "CANDIDATES", {key: recipe.CANDIDATES[key] for key in FEW})
        report = recipe.run(out / "recipe", world, seeds=2)
    return json.loads((report.parent / "study.json").read_text()), out


def _record(out, folder):
    return json.loads((out / "runs" / folder / "record.json").read_text())


def test_rows_are_the_students_of_the_runs(study):
    """Values by seed, read from the records by another way; the start is the pretrained model of those runs."""
    found, out = study
    rows = {row["id"]: row for row in found["rows"]}
    assert list(rows) == ["start", *FEW]
    folders = {"flyp": "flyp-0", "ftp": "ftp-0", "tracer-fd-10": "tracer-fd-10", "tracer-fd-1-half": "tracer-0.45"}
    for key, folder in folders.items():
        results = [_record(out, f"{folder}-seed{seed}")["results"] for seed in (0, 1)]
        assert rows[key]["n"] == 2
        assert rows[key]["coloured"]["values"] == pytest.approx([100 * r["student"]["id"]["top1"] for r in results])
        start = [100 * r["pretrained"]["original"]["top1"] for r in results]
        assert rows["start"]["original"]["values"] == pytest.approx(start)


def test_options_reach_the_runs(study):
    """FD 10 within the terms, half of lambda_SD."""
    _, out = study
    assert _record(out, "tracer-fd-10-seed1")["config"]["loss"]["fd"] == 10.0
    half = _record(out, "tracer-0.45-seed0")["config"]["loss"]
    assert (half["sd_weight"], half["fd"]) == (0.45, 1.0)


def test_every_candidate_is_compared_with_plain_finetuning(study):
    """On both axes, from the values of the rows."""
    found, _ = study
    claims = {c["id"] for c in found["claims"]}
    assert claims == {f"{key}-{axis}" for key in FEW[1:] for axis in ("coloured", "original")}
