"""Runs that differ from a method's own: where they lie, and that equal ones are made once."""

import pytest

from tests.studies.small_world import in_process, small_world
from tracerft.errors import ArgumentError
from tracerft.studies import variants
from tracerft.studies.variants import curve_of, finish_all, length, variant


def test_what_differs_in_nothing_is_the_run_of_the_comparison(small_model, digits_folder, tmp_path):
    """With the published strength by default, in the folder that `study compare` gives it."""
    world = small_world(tmp_path, small_model, digits_folder)
    plain = world.config("tracer", "tracer", ("loss.sd_weight", 0.9), 1)
    assert variant(world, "tracer", 1, "other") == plain
    assert variant(world, "tracer", 1, "other", loss={"fd": 1.0}, teacher={"a": 0.5}, probe_every=0) == plain
    assert plain.out == str(tmp_path / "runs" / "tracer-0.9-seed1")
    assert variant(world, "flyp", 0).out == str(tmp_path / "runs" / "flyp-0-seed0")


def test_what_differs_has_a_folder_of_its_own(small_model, digits_folder, tmp_path):
    """And keeps everything else."""
    world = small_world(tmp_path, small_model, digits_folder)
    found = variant(world, "tracer", 1, "x", strength=3.0, loss={"fd": 0.0}, teacher={"b": 0.2}, probe_every=2)
    assert found.out == str(tmp_path / "runs" / "probed-2-x-seed1")
    assert (found.loss.sd_weight, found.loss.fd, found.loss.crd) == (3.0, 0.0, 1.0)
    assert (found.teacher.a, found.teacher.b, found.train.probe_every) == (0.5, 0.2, 2)
    assert (found.model, found.freeze, found.loss.targets, found.train.seed) == (
        world.starts[1], "text", "multi_positive", 1,
    )  # fmt: skip


def test_equal_runs_are_made_once(small_model, digits_folder, tmp_path, monkeypatch):
    """Two keys, one configuration, one run."""
    seen = []

    def counted(configs, *rest):
        seen.extend(configs)
        return in_process(configs, *rest)

    monkeypatch.setattr(variants, "run_all", counted)
    world = small_world(tmp_path, small_model, digits_folder, steps=2)
    configs = {name: variant(world, "flyp", 0) for name in ("a", "b")} | {"c": variant(world, "flyp", 1)}
    runs = finish_all(world, configs, 1, None)
    assert len(seen) == 2
    assert runs["a"] is runs["b"]
    assert runs["c"].folder.name == "flyp-0-seed1"


def test_a_world_that_counts_epochs_is_refused(small_model, digits_folder, tmp_path):
    """Kernels and intervals need T."""
    world = small_world(tmp_path, small_model, digits_folder, steps=None)
    with pytest.raises(ArgumentError, match=r"`train\.steps` must be given"):
        length(world)


def test_a_curve_has_a_band_where_there_are_seeds():
    """Mean plus and minus one deviation (hand computation)."""
    one = curve_of("x", [0.0, 1.0], [{"mean": 2.0, "std": None}, {"mean": 3.0, "std": None}])
    assert one == {"label": "x", "x": [0.0, 1.0], "y": [2.0, 3.0]}
    assert curve_of("x", [0.0], [{"mean": 2.0, "std": 0.5}]) | {"label": "", "x": [], "y": []} == {
        "label": "", "x": [], "y": [], "low": [1.5], "high": [2.5],
    }  # fmt: skip
