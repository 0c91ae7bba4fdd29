"""The dynamics study in small: teachers, intervals, and what is read from the runs."""

import json

import pytest

from tests.studies.small_world import in_process, small_world
from tracerft.averaging import Clock, beta_kernel, carot_kernel, exponential_kernel, final_pretrained_weight
from tracerft.methods import carot
from tracerft.studies import dynamics, variants

STEPS = 12


@pytest.fixture(scope="module")
def study(tmp_path_factory, small_model, digits_folder):
    """Two seeds of twelve steps, teachers updated every step and every third."""
    out = tmp_path_factory.mktemp("dynamics")
    world = small_world(out, small_model, digits_folder, steps=STEPS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(variants, "run_all", in_process)
        patch.setattr(dynamics, "UPDATES", 4)
        patch.setattr(carot, "UPDATES", 4)
        with pytest.warns(UserWarning, match="the pretrained state keeps"):
            report = dynamics.run(out / "dynamics", world, seeds=2)
    return json.loads((report.parent / "study.json").read_text()), out


def test_every_teacher_is_followed_at_both_intervals(study):
    """Eight rows; runs have folders of their own, as this world measures nothing by itself."""
    found, out = study
    assert [(r["id"], r["strength"]) for r in found["rows"]] == [(k, f) for f in (1, 3) for k in dynamics.RULES]
    assert len(list((out / "runs").iterdir())) == 16
    assert all(p.name.startswith("probed-1-") for p in (out / "runs").iterdir())
    assert len(found["figures"]) == 8


def test_shares_of_theta_0_are_those_of_the_kernels(study):
    """From the kernels on their clocks: an EMA forgets the same in a run whatever the interval."""
    found, _ = study
    shares = {(r["id"], r["strength"]): r["pretrained_share"] / 100 for r in found["rows"]}
    for every in (1, 3):
        clock = Clock(STEPS, every)
        assert shares["wma", every] == pytest.approx(final_pretrained_weight(beta_kernel(0.5, 0.5), clock), rel=1e-9)
        assert shares["ema-slow", every] == pytest.approx(0.25, rel=1e-9)  # two half-lives in a run
        fast = final_pretrained_weight(exponential_kernel(0.5 ** (1 / (0.1 * STEPS))), Clock(STEPS))
        assert shares["ema-fast", every] == pytest.approx(fast, rel=1e-9)
    assert shares["carot", 1] == pytest.approx(final_pretrained_weight(carot_kernel(), Clock(STEPS)), rel=1e-9)
    assert shares["carot", 3] == pytest.approx(final_pretrained_weight(carot_kernel(), Clock(STEPS, 3)), rel=1e-9)


def test_a_row_is_the_end_of_metrics_jsonl(study):
    """Last measurement of each seed, confidence in percent, and the distance against its largest."""
    found, out = study
    row = next(r for r in found["rows"] if (r["id"], r["strength"]) == ("wma", 3))
    for seed in (0, 1):
        text = (out / "runs" / f"probed-1-tracer-point-every-3-seed{seed}" / "metrics.jsonl").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        gaps = [line["gap_weights"] for line in lines]
        assert len(gaps) == STEPS + 1
        assert row["gap_kl"]["values"][seed] == lines[-1]["gap_kl"]
        assert row["teacher_confidence"]["values"][seed] == pytest.approx(100 * lines[-1]["teacher_confidence"])
        assert row["gap_left"]["values"][seed] == pytest.approx(100 * gaps[-1] / max(gaps))
    claim = next(c for c in found["claims"] if c["id"] == "gap-ema-fast")
    at = {r["id"]: r["gap_left"]["mean"] for r in found["rows"] if r["strength"] == 1}
    assert claim["ours"].startswith(f"{at['wma']:.1f} against {at['ema-fast']:.1f}")


def test_runs_that_are_measured_anyway_are_shared(tmp_path, small_model, digits_folder):
    """Where the world measures, WMA after every step is TRACER's own run, and CaRot's slow one its own."""
    world = small_world(tmp_path, small_model, digits_folder, steps=100, probe_every=7)
    plain = world.config("tracer", "tracer", ("loss.sd_weight", 0.9), 1)
    assert dynamics._config(world, "wma", 1, 1) == plain
    plain_carot = world.config("carot", "carot", ("loss.carot_sd", 1.5), 0)
    assert dynamics._config(world, "carot", 2, 0) == plain_carot
    assert dynamics._config(world, "carot", 1, 0).teacher.carot_every == 1
    slow = dynamics._config(world, "wma", 2, 0)
    assert (slow.teacher.update_every, slow.teacher.weighting) == (2, "point")
    assert slow.out.endswith("runs/tracer-point-every-2-seed0")
