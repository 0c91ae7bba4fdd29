"""The theory study: plain results, computed claims, figures only."""

import json

import pytest
import torch

from tracerft import theory
from tracerft.averaging.clock import Clock
from tracerft.averaging.kernels import final_pretrained_weight
from tracerft.studies import theory as study


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One run and its folder."""
    out, lines = tmp_path_factory.mktemp("theory"), []
    return out, study.run(out, progress=lines.append), lines


def claim(result, name):
    """The claim of this id."""
    (found,) = [c for c in result["claims"] if c["id"] == name]
    return found


def test_result_is_plain_and_complete(finished):
    """JSON without NaN, the promised fields, unique ids."""
    _, result, lines = finished
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["study"] == "theory"
    assert all(set(c) == {"id", "paper", "ours", "holds", "note"} for c in result["claims"])
    assert len({c["id"] for c in result["claims"]}) == len(result["claims"])
    assert sum(row["part"] == "residual" for row in result["rows"]) == 36
    assert lines[0] == "gradient descent against the closed forms"


def test_only_figures_are_written(finished):
    """study.json is the caller's."""
    out, _, _ = finished
    files = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    assert files == ["figures/inside.svg", "figures/moved.svg", "figures/residual.svg"]
    assert all("<svg" in (out / name).read_text() for name in files)


def test_exact_results_of_the_paper_hold(finished):
    """Everything stated for a finite number of steps is confirmed."""
    _, result, _ = finished
    failing = [c["id"] for c in result["claims"] if not c["holds"]]
    assert failing == ["no bias at the recipe's horizon"]


def test_bias_that_the_recipe_leaves_is_reported(finished):
    """The arcsine teacher keeps a few percent of its first error: not zero, far below static."""
    _, result, _ = finished
    left = claim(result, "no bias at the recipe's horizon")
    omegas = study.update_weights(study.KERNELS["Beta(0.5, 0.5)"], 25020)
    assert float(left["ours"]) == pytest.approx(theory.finite_horizon_residual(omegas, 0.9), rel=1e-2)
    assert 0.01 < float(left["ours"]) < 0.1


def test_claims_fail_on_wrong_numbers(finished, monkeypatch, tmp_path):
    """Holds is computed: a wrong closed form is caught."""
    right = theory.static_sd
    monkeypatch.setattr(study.theory, "static_sd", lambda *args: right(*args) + 1e-3)
    assert not claim(study.run(tmp_path), "closed form: static SD")["holds"]


def test_another_seed_is_another_problem_and_the_same_seed_is_not():
    """The seed decides the problem, and nothing else does."""
    first, again, other = (study.make_problem(seed) for seed in (0, 0, 1))
    assert torch.equal(first.targets, again.targets)
    assert not torch.equal(first.targets, other.targets)


@pytest.mark.parametrize("name", list(study.KERNELS))
def test_update_weights_leave_the_pretrained_share(name):
    """The product of 1 - omega_k is the share of theta_0 in the last teacher."""
    kernel = study.KERNELS[name]
    share = theory.finite_horizon_residual(study.update_weights(kernel, 50), 0.0)
    assert share == pytest.approx(final_pretrained_weight(kernel, Clock(50)))


def test_same_seed_writes_the_same_figures(finished, tmp_path):
    """Equal numbers give equal files."""
    out, _, _ = finished
    study.run(tmp_path)
    for name in ("moved.svg", "residual.svg"):
        assert (tmp_path / "figures" / name).read_bytes() == (out / "figures" / name).read_bytes()
