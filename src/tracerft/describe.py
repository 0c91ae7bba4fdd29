"""What a run is going to do, before it does: sizes, steps, the teacher's share, memory, time, files.

Reads a `Ready` run and changes nothing but what `time_steps` says.
"""

import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tracerft.averaging import Clock, final_pretrained_weight, frozen_kernel
from tracerft.config import FinetuneConfig
from tracerft.data.sampling import steps_per_epoch
from tracerft.methods import METHODS
from tracerft.models.weights import num_parameters
from tracerft.preparing import Ready, ingredients
from tracerft.training.trainer import Trainer

BYTES = 4  # float32 weights, gradients, moments and averages
TRAINED_COPIES = 4  # weight, gradient and AdamW's two moments
LONG = 20.0  # seconds a step after which one is enough to tell

Lines = list[tuple[str, str]]


@dataclass(frozen=True)
class Timing:
    """What some optimiser steps took.

    Args:
        seconds: of the last step measured, data included.
        steps: how many were made.
        peak_bytes: most memory that tensors took on the device; ``None`` where it is not known (CPU).
    """

    seconds: float
    steps: int
    peak_bytes: int | None


def describe(ready: Ready) -> Lines:
    """What a run is made of, as label and text, from the prepared run alone; nothing is computed on the model."""
    config, plan, source = ready.config, ready.plan, ready.parts.source
    trained, total = num_parameters(ready.loaded.model)
    per_epoch = steps_per_epoch(len(source), plan.batch_size)
    passes = plan.total_steps / per_epoch
    lines = [
        ("model", f"{ready.loaded.source}, {trained:,} of {total:,} parameters train"),
        ("method", config.method),
        ("samples", _samples(ready)),
        ("captions", _captions(ready)),
        (
            "steps",
            f"{plan.total_steps:,} of {plan.batch_size} pairs{_chunks(ready)}, {passes:.3g} epochs of {per_epoch:,}; "
            f"{_rate(ready)}",
        ),
    ]
    share = teacher_share(config, plan.total_steps)
    if share is not None:
        lines.append(("average", f"{share:.2%} of the final average is the pretrained model"))
    where = f"{plan.device.type}, {plan.device}" if plan.device.index is not None else plan.device.type
    precision = "bf16 autocast" if plan.autocast else "float32"
    lines += [
        ("memory", f"about {_gigabytes(weight_bytes(ready))} for weights and optimiser, activations not counted"),
        ("device", f"{where}, {precision}"),
        ("evaluates", _splits(ready)),
        ("writes", _writes(ready)),
    ]
    return lines


def teacher_share(config: FinetuneConfig, total_steps: int) -> float | None:
    """Share in [0, 1] of the pretrained state in the final average; ``None`` for a method without one in the table."""
    info = METHODS.get(config.method)
    if info is None or info.kernel is None:
        return None
    kernel, t = info.kernel(ingredients(config)), config.teacher
    moves = kernel != frozen_kernel()
    return final_pretrained_weight(kernel, Clock(total_steps, t.update_every, t.weighting) if moves else Clock(None))


def weight_bytes(ready: Ready) -> int:
    """Bytes of student, its gradients and moments, the start that is kept, and the teacher."""
    trained, total = num_parameters(ready.loaded.model)
    start = num_parameters(ready.pretrained)[1]
    return BYTES * (TRAINED_COPIES * trained + (total - trained) + (1 + _copies(ready)) * start)


def _copies(ready: Ready) -> int:
    """Models that the method keeps beside student and start."""
    info = METHODS.get(ready.config.method)
    return 0 if info is None else info.copies


class _Enough(Exception):
    """Ends the measured steps."""


def time_steps(ready: Ready, steps: int = 2) -> Timing:
    """Make a few optimiser steps with the real loop and say what the last took.

    The student changes by them, so this is for a run that will not be made; files go to a folder that is removed.

    Args:
        ready: the run.
        steps: how many; the first is often slower. After one that took `LONG` no other is made.
    """
    marks = [time.perf_counter()]
    cuda = ready.plan.device.type == "cuda"

    def progress(step: int, total: int, terms: Mapping[str, float]) -> None:
        marks.append(time.perf_counter())
        if step >= steps or marks[-1] - marks[-2] > LONG:
            raise _Enough

    plan = replace(ready.plan, total_steps=max(ready.plan.total_steps, steps + 1), checkpoint_every=0, probe_every=0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(ready.loaded.model, ready.method, ready.parts.source, plan, Path(folder), progress=progress)
        marks[0] = time.perf_counter()
        with suppress(_Enough):
            trainer.run()
    peak = torch.cuda.max_memory_allocated(ready.plan.device) if cuda else None
    return Timing(marks[-1] - marks[-2], len(marks) - 1, peak)


def timing_lines(ready: Ready, timing: Timing) -> Lines:
    """How long the whole run will take if every step takes as long, evaluation not counted."""
    whole = ready.plan.total_steps * timing.seconds
    lines = [
        ("time", f"{_duration(timing.seconds)} a step, so about {_duration(whole)} of training and then evaluation")
    ]
    if timing.peak_bytes is not None:
        lines.append(("peak memory", f"{_gigabytes(timing.peak_bytes)} on the device"))
    return lines


def _samples(ready: Ready) -> str:
    source, classes = ready.parts.source, ready.parts.classes
    held = ready.parts.suite.splits().get("select-id")
    kept = len(held) if held is not None else len(ready.parts.suite.id) if ready.config.suite is None else 0
    named = f", {len(classes):,} classes" if classes else ", no classes"
    return f"{len(source):,} to train on{named}" + (f"; {kept:,} held out" if kept else "")


def _captions(ready: Ready) -> str:
    parts = ready.parts
    return (
        f"{len(parts.source.captions):,} distinct; {100 * parts.collisions:.1f} % of a batch share theirs with another "
        f"pair, so targets are {ready.config.loss.targets}"
    )


def _chunks(ready: Ready) -> str:
    chunks = ready.plan.accumulate
    return f" embedded in {chunks} chunks" if chunks > 1 else ""


def _rate(ready: Ready) -> str:
    return f"learning rate {ready.plan.lr:g}, warm-up {ready.plan.warmup_steps:,} steps"


def _splits(ready: Ready) -> str:
    return ", ".join(f"{name} ({len(split):,})" for name, split in ready.parts.suite.splits().items())


def _writes(ready: Ready) -> str:
    trained, total = num_parameters(ready.loaded.model)
    start = num_parameters(ready.pretrained)[1]
    info = METHODS.get(ready.config.method)
    models = 2 if info is not None and (info.kernel is not None or info.family == "weight space") else 1
    checkpoint = BYTES * (total + 2 * trained + _copies(ready) * start)
    every = ready.plan.checkpoint_every
    rhythm = f"every {every:,} steps and at the end, the newest two kept" if every else "at the end"
    return (
        f"{ready.config.out}: models ({_gigabytes(models * BYTES * start)}), a checkpoint of "
        f"{_gigabytes(checkpoint)} {rhythm}, metrics, predictions, record.json, report.html"
    )


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
