"""Digits in small, as a world for studies, and their runs without processes."""

from pathlib import Path

from tracerft.config import DigitsConfig, FinetuneConfig, TrainConfig
from tracerft.studies import runner
from tracerft.studies.toy_results import COLUMNS, measures
from tracerft.studies.worlds import NO_ANCHORS, World


def in_process(configs, workers, progress=None, read=None):
    """`run_all` without processes."""
    return [runner.finish(config, read) for config in configs]


def small_world(out: Path, model: Path, data: Path, *, steps: int = 4, probe_every: int = 0) -> World:
    """Two seeds of the toy study's setting with one start."""
    train = TrainConfig(
        steps=steps, batch_size=16, lr=1e-2, device="cpu", checkpoint_every=0, warmup_steps=0, probe_every=probe_every
    )
    base = FinetuneConfig(
        model=str(model),
        data=str(data),
        out=str(out),
        freeze="text",
        hold_out=0.2,
        train=train,
        digits=DigitsConfig(count=80),
    )
    return World(
        title="small",
        base=base,
        starts=[str(model)] * 2,
        columns=[c for c in COLUMNS if not c["key"].startswith("teacher_")],
        axes=("coloured", "original"),
        measures=measures,
        settings={"steps": steps},
        without={"arf": NO_ANCHORS, "arf_lite": NO_ANCHORS},
    )
