"""Processes of a study that do not end as they should."""

import os

import pytest

from tests.runs import TRAIN
from tracerft.config import FinetuneConfig, TrainConfig
from tracerft.errors import WorkerError
from tracerft.studies.runner import finish, run_all


def killed(config, loaded):
    """As the system ends a process that wants too much memory: at once, with no exception."""
    os._exit(137)


def test_a_killed_process_is_one_line_with_the_cure(small_model, tmp_path):
    """The folder, what is kept, what to do."""
    config = FinetuneConfig(model=str(small_model), data="digits", out=str(tmp_path / "runs" / "one"))
    expected = r"runs: a process was killed .* after 0 of 1 runs; finished runs are kept and the same command goes on"
    with pytest.raises(WorkerError, match=expected) as caught:
        run_all([config], 1, read=killed)
    assert "\n" not in str(caught.value)


def test_a_probe_without_a_step_finishes_like_any_run(small_model, digits_folder, tmp_path):
    """It has no checkpoint to remove."""
    train = TrainConfig(**{k: v for k, v in TRAIN.items() if k != "probe_every"})
    config = FinetuneConfig(
        model=str(small_model), data=str(digits_folder), out=str(tmp_path / "run"), method="linear_probe", train=train
    )
    run = finish(config)
    assert run.record["steps"] == 0
    assert finish(config).record == run.record
