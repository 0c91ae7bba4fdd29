"""The cost study: turns, ratios and claims on made-up times, and one real measurement."""

import json
import time
from dataclasses import replace

import pytest
import torch

from tests.studies.small_world import small_world
from tracerft.errors import RunFolderError
from tracerft.methods import METHODS
from tracerft.sources import read_parts
from tracerft.studies import cost, step_cost
from tracerft.studies.variants import variant

MS = {"flyp": 10.0, "ce_ft": 8.0, "tracer": 11.0, "carot": 12.0}  # of the first round, 5 of all others
FACTORS = (1.0, 3.0, 2.0)  # a machine that slows down between rounds


@pytest.fixture
def measured(monkeypatch):
    """Configurations in the order in which they were measured."""
    seen = []

    def pretend(config, _read):
        seen.append(config)
        ms = MS.get(config.method, 5.0) * FACTORS[config.train.seed]
        ms *= 1.5 if (config.method, config.train.seed) == ("tracer", 2) else 1.0
        return {"step_ms": ms, "data_ms": 1.0, "memory_mib": 100.0, "added_mib": 10.0}

    monkeypatch.setattr(cost, "step_cost_apart", pretend)
    return seen


@pytest.fixture
def world(tmp_path, small_model, digits_folder):
    """Small, with a third start."""
    found = small_world(tmp_path, small_model, digits_folder)
    found.starts.append(found.starts[0])
    return found


def study_of(report):
    """What was written."""
    return json.loads((report.parent / "study.json").read_text())


def test_methods_take_turns_and_ratios_are_of_one_round(world, measured, tmp_path):
    """Every method once a round; medians over rounds (hand computation)."""
    found = study_of(cost.run(tmp_path / "cost", world, seeds=3))
    names = [row["id"] for row in found["rows"]]
    assert [(c.method, c.train.seed) for c in measured] == [(n, seed) for seed in range(3) for n in names]
    assert {"ce_ft", "l2_sp", "flyp", "tracer", "carot", "swa", "ftp"} <= set(names)
    assert not {"arf", "zero_shot", "linear_probe", "wise_ft", "tpgm"} & set(names)
    row = next(r for r in found["rows"] if r["id"] == "tracer")
    assert row["step_ms"] == 33.0  # of 11, 33, 33
    assert row["ratio_flyp"] == pytest.approx(1.1)  # of 1.1, 1.1, 1.65
    assert row["ratio_ce"] == pytest.approx(11 / 8)
    assert row["published"] == 1.38
    assert row["flop_units"] == METHODS["tracer"].cost
    claims = {c["id"]: c["holds"] for c in found["claims"]}
    assert claims == {"direct": None, "carot": None}  # the third round disagrees


def test_a_finished_round_is_kept_and_another_setting_refused(world, measured, tmp_path):
    """One round more measures one round; another rate is another study."""
    cost.run(tmp_path / "cost", world, seeds=1)
    once = len(measured)
    found = study_of(cost.run(tmp_path / "cost", world, seeds=2))
    assert len(measured) == 2 * once
    assert {c["id"]: c["holds"] for c in found["claims"]} == {"direct": True, "carot": True}
    other = small_world(tmp_path, world.starts[0], world.base.data, steps=9)
    with pytest.raises(RunFolderError, match="a round in another setting"):
        cost.run(tmp_path / "cost", other, seeds=1)


class Slow:
    """A source that takes 20 ms longer for a batch."""

    sha256 = "slow"

    def __init__(self, source, made):
        self.source, self.made = source, made

    def __len__(self):
        return len(self.source)

    def batch(self, *arguments):
        """The source's own, later."""
        time.sleep(0.02)
        self.made.append(arguments)
        return self.source.batch(*arguments)


def test_a_step_is_measured_without_its_data(world, tmp_path, monkeypatch):
    """The sleep counts as data, no batch is made for a measured step, and nothing is left in the run's folder."""
    monkeypatch.setattr(step_cost, "WARM_UP", 2)
    monkeypatch.setattr(step_cost, "STEPS", 4)
    made = []

    def slow_parts(config, loaded):
        parts = read_parts(config, loaded)
        return replace(parts, source=Slow(parts.source, made))

    found = step_cost.step_cost(variant(world, "tracer", 0), slow_parts)
    assert found["data_ms"] > 20.0
    assert found["step_ms"] > 0.0
    assert len(made) == 2
    assert not (tmp_path / "runs").exists()


def test_the_time_of_a_step_is_its_median_and_the_processors(world, monkeypatch):
    """By a clock that is made up: 1, 2, 3, 100 s of work."""
    monkeypatch.setattr(step_cost, "WARM_UP", 1)
    monkeypatch.setattr(step_cost, "STEPS", 4)
    ticks = iter([0.0, 1.0, 3.0, 6.0, 106.0])
    monkeypatch.setattr(time, "thread_time", lambda: next(ticks))
    assert step_cost.step_cost(variant(world, "tracer", 0), read_parts)["step_ms"] == 2500.0


def test_memory_is_that_of_a_process_of_its_own(world):
    """What this process holds does not count, and training adds something."""
    held = torch.ones(100 * 2**20)  # 400 MiB
    found = step_cost.step_cost_apart(variant(world, "flyp", 0), read_parts)
    assert found["memory_mib"] < step_cost.peak_memory() - held.nbytes / 2**21
    assert 0.0 < found["added_mib"] < found["memory_mib"]
