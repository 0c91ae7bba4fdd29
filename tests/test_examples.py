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


@pytest.mark.filterwarnings("ignore:.*does not have many workers")  # what Lightning says to one process
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*deprecated:FutureWarning")  # Lightning 2.6 with torch 2.14
def test_the_lightning_loop_trains_and_the_teacher_keeps_its_share(monkeypatch, tmp_path):
    """Eight batches, two to a step: the share is that of Definition 3.3 at T = 4."""
    pytest.importorskip("lightning")
    monkeypatch.chdir(tmp_path)
    teacher = load("lightning_loop").main().teacher
    assert teacher.steps == 4
    assert teacher.pretrained_weight == pytest.approx(
        final_pretrained_weight(beta_kernel(0.5, 0.5), Clock(4)), abs=1e-9
    )


def test_the_transformers_trainer_trains_and_its_teacher_loads_in_transformers(tmp_path):
    """Losses fall, checkpoints hold a teacher, and the averaged model is a stock `CLIPModel`."""
    transformers = pytest.importorskip("transformers")
    trainer = load("transformers_trainer").main(str(tmp_path))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    assert [p.parent.name for p in sorted(tmp_path.rglob("teacher.json"))] == ["checkpoint-2", "checkpoint-4"]
    stock = transformers.CLIPModel.from_pretrained(tmp_path / "teacher")
    averaged = dict(trainer.teacher.averaged.named_parameters())
    assert all((parameter == averaged[name]).all() for name, parameter in stock.named_parameters())
