"""The ablations: which settings there are, what stands beside them, and the whole in small."""

import json

import pytest

from tests.studies.small_world import in_process, small_world
from tracerft.averaging import Clock, beta_kernel, final_pretrained_weight
from tracerft.studies import ablations, variants
from tracerft.studies import published_ablations as published
from tracerft.studies.variants import variant

STEPS = 20


def test_the_settings_are_those_of_the_tables():
    """Sixteen combinations, lambda_SD 0.1 to 10 with our own, both weightings, b 0.2 to 1.5."""
    settings = ablations.settings_of(published.STEPS)
    parts = {part: [s for s in settings if s.part == part] for part in dict.fromkeys(s.part for s in settings)}
    assert {part: len(of) for part, of in parts.items()} == {
        "terms": 16, "sd_weight": 15, "update_every": 18, "kernel": 6,
    }  # fmt: skip
    assert len({s.id for s in settings}) == len(settings)
    at = {s.id: s for s in settings}
    # Table 8, row 1010 is FD and ICL; Tables 9 to 11, one row each (typed from the paper by another way)
    assert at["terms", "FD + ICL", None].published == (83.08, 63.30, 4.36, 11.75)
    assert at["terms", "FD + ICL", None].options == {"loss": {"fd": 1.0, "cross_kd": 0.0, "icl": 1.0, "crd": 0.0}}
    assert at["sd_weight", "lambda_SD", 1.5].published[:2] == (82.27, 64.12)
    assert at["sd_weight", "lambda_SD", 0.9].published is None
    assert at["update_every", "steps between updates, point", 2500.0].published[:2] == (81.38, 63.98)
    assert at["update_every", "steps between updates, mass", 2500.0].published is None
    assert at["kernel", "Beta(b, b)", 0.2].published[:2] == (81.91, 64.22)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(25_020, {k: k for k in published.UPDATE_EVERY}), (168, {1: 1, 3: 500, 7: 1000, 17: 2500}), (1, {1: 1})],
)
def test_intervals_are_the_same_shares_of_the_run(steps, expected):
    """T/25,020 of the paper's, at least 1 (hand computation: 168 * 500 / 25020 = 3.4)."""
    assert ablations.intervals(steps) == expected


@pytest.fixture(scope="module")
def study(tmp_path_factory, small_model, digits_folder):
    """One seed of all combinations, and of the ends of every grid."""
    out = tmp_path_factory.mktemp("ablations")
    world = small_world(out, small_model, digits_folder, steps=STEPS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(variants, "run_all", in_process)
        for name, ends in (("SD_WEIGHT", (0.1, 1.5, 10.0)), ("BETA", (0.2, 0.5, 1.5))):
            patch.setattr(published, name, {k: v for k, v in getattr(published, name).items() if k in ends})
        with pytest.warns(UserWarning, match="the pretrained state keeps"):
            report = ablations.run(out / "ablations", world)
    return json.loads((report.parent / "study.json").read_text()), out, world


def test_the_share_of_theta_0_stands_beside_every_row(study):
    """From the kernel on its clock; none without a teacher."""
    found, _, _ = study
    at = {(r["part"], r["method"], r["strength"]): r for r in found["rows"]}
    assert at["terms", "no term", None]["pretrained_share"] is None
    for part, weighting in (("point", "point"), ("mass", "mass")):
        for every in (1, 2):
            share = final_pretrained_weight(beta_kernel(0.5, 0.5), Clock(STEPS, every, weighting))
            row = at["update_every", f"steps between updates, {part}", float(every)]
            assert row["pretrained_share"] == pytest.approx(100 * share, rel=1e-9)
    for b in (0.2, 0.5, 1.5):
        share = final_pretrained_weight(beta_kernel(b, b), Clock(STEPS))
        assert at["kernel", "Beta(b, b)", b]["pretrained_share"] == pytest.approx(100 * share, rel=1e-9)


def test_rows_are_the_runs_and_equal_settings_are_one_run(study):
    """All four terms, lambda 0.9, updates after every step and Beta(.5, .5) are TRACER itself."""
    found, out, world = study
    at = {(r["part"], r["method"], r["strength"]): r for r in found["rows"]}
    tracer = json.loads((out / "runs" / "tracer-0.9-seed0" / "record.json").read_text())
    for key in (
        ("terms", "FD + CrossKD + ICL + CRD", None),
        ("sd_weight", "lambda_SD", 0.9),
        ("update_every", "steps between updates, point", 1.0),
        ("kernel", "Beta(b, b)", 0.5),
    ):
        assert at[key]["original"]["mean"] == pytest.approx(100 * tracer["results"]["student"]["original"]["top1"])
    one = json.loads((out / "runs" / "tracer-terms-0010-seed0" / "record.json").read_text())
    assert one["config"]["loss"] == tracer["config"]["loss"] | {"fd": 0.0, "cross_kd": 0.0, "crd": 0.0}
    alone = at["terms", "ICL", None]
    assert alone["coloured"]["mean"] == pytest.approx(100 * one["results"]["student"]["id"]["top1"])
    start = at["start", "start", None]
    assert start["original"]["mean"] == pytest.approx(100 * tracer["results"]["pretrained"]["original"]["top1"])
    assert len(list((out / "runs").iterdir())) == 16 + 3 + 3 + 2  # of them TRACER and direct finetuning
    assert variant(world, "flyp", 0).out in {str(p) for p in (out / "runs").iterdir()}


def test_claims_say_the_papers_figures_beside_ours(study):
    """Each pair of Tables 8 to 11, judged on its axis."""
    found, _, _ = study
    shown = [c["key"] for c in found["columns"][:5]]
    assert shown == ["original", "coloured", "pretrained_share", "published_id", "published_shifts"]
    claims = {c["id"]: c for c in found["claims"]}
    assert len(claims) == 11
    assert claims["fd-alone"]["paper"] == "FD alone is better under shift than no term (63.5 against 59.4)"
    assert claims["often-task"]["paper"].endswith("(82.8 against 81.4)")
    at = {(r["part"], r["strength"]): r for r in found["rows"]}
    ends = at["kernel", 1.5]["coloured"]["mean"] - at["kernel", 0.2]["coloured"]["mean"]
    assert claims["ends-task"]["holds"] is (ends > 0)
    assert [f["file"] for f in found["figures"]] == [
        f"figures/{name}.svg" for name in ("terms", "sd-weight", "update-every", "kernel")
    ]
