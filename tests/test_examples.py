"""The examples run as they are."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from tracerft.averaging import Clock, beta_kernel, final_pretrained_weight

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name):
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_own_loop_trains_and_the_teacher_keeps_its_share(capsys):
    """Losses are finite and fall, a line a step; the share is that of Definition 3.3 at T = 6."""
    losses, share = load("own_loop").main()
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    assert capsys.readouterr().out.count("pretrained share of the teacher") == len(losses) == 6
    assert share == pytest.approx(final_pretrained_weight(beta_kernel(0.5, 0.5), Clock(6)), abs=1e-9)
    assert 0.0 < share < 1.0
