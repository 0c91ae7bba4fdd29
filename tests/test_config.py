"""Every problem of a configuration, in one line."""

from dataclasses import replace

import pytest

from tracerft.config import FinetuneConfig, LossConfig, TeacherConfig, TrainConfig
from tracerft.config_rules import check, unused_options
from tracerft.errors import ArgumentError

BASE = FinetuneConfig(model="m", data="d", out="o")


@pytest.mark.parametrize(
    ("group", "values"),
    [
        ("train", {"epochs": 0}),
        ("train", {"steps": 0}),
        ("train", {"batch_size": 1}),
        ("train", {"accumulate": 0}),
        ("train", {"accumulate": 513}),
        ("train", {"replicas": 0}),
        ("train", {"replicas": 2}),
        ("train", {"lr": 0.0}),
        ("train", {"lr": float("nan")}),
        ("train", {"lr": float("inf")}),
        ("train", {"weight_decay": -0.1}),
        ("train", {"warmup_steps": -1}),
        ("train", {"seed": -1}),
        ("train", {"seed": 2**63}),
        ("train", {"precision": "fp16"}),
        ("train", {"log_every": 0}),
        ("train", {"checkpoint_every": -1}),
        ("train", {"probe_every": -1}),
        ("digits", {"start": -1}),
        ("teacher", {"alpha": 1.5}),
    ],
)
def test_a_value_out_of_range_is_named(group, values):
    """Option, expectation, what came."""
    config = replace(BASE, **{group: replace(getattr(BASE, group), **values)})
    ((name, value),) = values.items()
    with pytest.raises(ArgumentError) as caught:
        check(config)
    assert f"`{group}.{name}` must be " in str(caught.value)
    assert f"got {value}" in str(caught.value)


def test_all_problems_are_told_at_once():
    """Four mistakes, one error, one line."""
    config = replace(BASE, freeze="both", hold_out=1.0, train=TrainConfig(batch_size=1, lr=-1.0))
    with pytest.raises(ArgumentError) as caught:
        check(config)
    text = str(caught.value)
    assert [name in text for name in ("train.batch_size", "train.lr", "freeze", "hold_out")] == [True] * 4
    assert "\n" not in text


def test_the_defaults_are_valid():
    """And those at the edge of a range."""
    check(BASE)
    check(replace(BASE, train=TrainConfig(steps=1, batch_size=2, seed=2**63 - 1), hold_out=0.0))


def test_options_that_a_method_does_not_read_are_found():
    """Only those that differ from what was there before, be it the defaults or a preset."""
    config = replace(BASE, loss=LossConfig(fd=2.0, l2_sp=1.0), teacher=TeacherConfig(momentum=0.5), probe="lbfgs")
    assert unused_options(config, BASE, ("loss.fd",)) == ["loss.l2_sp", "teacher.momentum", "probe"]
    assert unused_options(config, config, ()) == []
    assert unused_options(config, replace(BASE, loss=config.loss), ("probe",)) == ["teacher.momentum"]
    assert unused_options(BASE, config, ("probe", "teacher.momentum")) == ["loss.fd", "loss.l2_sp"]
