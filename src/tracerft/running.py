"""One run, from what was prepared to its folder: train, evaluate, save, record."""

import re
import shutil
import time
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from itertools import pairwise
from math import gcd
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from torch import nn

from tracerft.config import FinetuneConfig, read_config
from tracerft.data.suite import Suite
from tracerft.distributed import ALONE, World
from tracerft.errors import CheckpointError, RunFolderError, TracerftError
from tracerft.evaluation.dynamics import drift, teacher_student_gap
from tracerft.evaluation.examples import save_examples
from tracerft.evaluation.suite import evaluate_models
from tracerft.models.weights import load_model, num_parameters, save_model
from tracerft.preparing import Ready, flat, prepare
from tracerft.reports.record import environment, read_record, write_json, write_text
from tracerft.reports.run import write_run_report
from tracerft.training.checkpoint import newest_checkpoint, restore
from tracerft.training.disk import refusals_told
from tracerft.training.lock import held
from tracerft.training.loggers import Followers
from tracerft.training.ranks import refuse_differences
from tracerft.training.trainer import Probe, Progress, Trainer, refuse_changes

TIMED = 10_000  # of the last steps, whose times make the median; a run may have a thousand times as many


def execute(
    ready: Ready,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    lean: bool = False,
    world: World = ALONE,
) -> dict[str, Any]:
    """Train, evaluate and write the run's folder; returns the record.

    ``lean`` is for studies of many runs: no predictions and no report of its own, no checkpoints once it is finished,
    and the start is evaluated once for all runs of a process that share it. Of the ranks in ``world`` the first writes
    and evaluates; the others train with it, wait, and read the record.

    Raises:
        StateError: if the ranks were told different things.
        RunFolderError: if the folder is in use, cannot be written, or has no room.
        StoppedError: if a signal asked the run to stop; it can be resumed.
    """
    folder = Path(ready.config.out)
    told = flat({"out": ready.config.out, "guard": asdict(ready.config.guard), "resume": resume})
    told |= {"train.shard": ready.plan.shard, "train.replicas": ready.plan.replicas}
    refuse_differences(world, {**ready.plan.fingerprint, **told})
    if ready.plan.shard and world.size > 1:
        ready.pretrained.to("meta")  # not read before the end, see `_gathered`
    if world.rank > 0:
        return _followed(ready, resume, world)
    with refusals_told(folder), _claimed(folder, ready.config, resume):
        record = _executed(ready, resume, progress, lean, world)
    world.wait()
    return record


def _followed(ready: Ready, resume: bool, world: World) -> dict[str, Any]:
    """What every rank but the first does."""
    folder, (_, every) = Path(ready.config.out), _probes(ready)
    plan = replace(ready.plan, probe_every=every)
    trainer = Trainer(ready.loaded.model, ready.method, ready.parts.source, plan, folder, world=world)
    if resume:
        trainer.resume()
    trainer.run()
    world.everywhere(_noted(ready))
    world.wait()
    return read_record(folder)


def _executed(ready: Ready, resume: bool, progress: Progress | None, lean: bool, world: World) -> dict[str, Any]:
    config, student, method = ready.config, ready.loaded.model, ready.method
    folder, started = Path(config.out), time.perf_counter()
    probe, every = _probes(ready)
    marks: deque[float] = deque(maxlen=TIMED)

    def timed(step: int, total: int, terms: Mapping[str, float]) -> None:
        marks.append(time.perf_counter())
        if progress:
            progress(step, total, terms)

    plan = replace(ready.plan, probe_every=every)
    trainer = Trainer(student, method, ready.parts.source, plan, folder, probe=probe, progress=timed, world=world)
    if resume:
        for problem in trainer.resume():
            warnings.warn(f"passed over a checkpoint: {problem}", UserWarning, stacklevel=3)
    # Only step 0 of a run that begins is logged before its first step.
    followers = Followers(config.log, folder, flat(asdict(config)), trainer.step + 1 if trainer.step else 0)
    trainer.follow = followers.write
    try:
        trainer.run()
        ranks = world.everywhere(_noted(ready))  # each read images of its own
        record = _finished(_gathered(ready) if trainer.split else ready, ranks, lean, started, marks)
        followers.results(record["results"])
    finally:
        followers.close()
    return record


def _gathered(ready: Ready) -> Ready:
    """The same run with whole models: the start, read again, and the last checkpoint without its moments."""
    config = ready.config
    again = prepare(config, load_model(config.model, seed=config.train.seed), ready.parts)
    checkpoint, problems = newest_checkpoint(Path(config.out) / "checkpoints")
    if checkpoint is None or checkpoint.step != ready.plan.total_steps:
        raise CheckpointError(f"the last step was saved and cannot be read: {'; '.join(problems)}; resume the run")
    again.method.start(again.loaded.model, ready.plan.total_steps)
    restore(checkpoint, again.loaded.model, again.method)
    return again


def _finished(
    ready: Ready, ranks: Sequence[list[str]], lean: bool, started: float, marks: deque[float]
) -> dict[str, Any]:
    """Evaluate, save and record what a run has made; ``ranks`` is what each of them was warned of."""
    folder, models = Path(ready.config.out), dict(ready.method.models())
    proposal = None
    if ready.guard is not None:
        proposal = ready.guard.propose({name: end for name, end in models.items() if "-wise-" not in name})
        models["guarded"] = proposal.model
    results = _evaluated(ready, models, None if lean else folder / "predictions")
    for name, finished in models.items():
        save_model(finished, folder / name)
    record = _record(ready, results, time.perf_counter() - started, marks)
    record["drift"] = {name: drift(ready.pretrained, finished) for name, finished in models.items()}
    if len(ranks) > 1:
        warned = list(dict.fromkeys([*(line for lines in ranks for line in lines), *record["warnings"]]))
        record |= {"ranks": len(ranks), "warnings": warned}
    if proposal is not None:
        record["guard"] = proposal.entry
    write_json(folder / "record.json", record)
    if lean:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # finished; a study has hundreds of runs
    else:
        write_run_report(folder)
    return record


def _record(ready: Ready, results: Mapping[str, Any], seconds: float, marks: deque[float]) -> dict[str, Any]:
    config, source, splits = ready.config, ready.parts.source, ready.parts.suite.splits()
    trained, total = num_parameters(ready.loaded.model)
    versions = environment()
    names = list(dict.fromkeys(split.classes for split in splits.values() if split.classes))  # a shift may have its own
    noted = [*_noted(ready), *(f"{n}: {w}" for n, split in splits.items() for w in split.warnings)]
    return {
        "tracerft": versions["tracerft"],
        "status": "finished",
        "method": config.method,
        "seed": config.train.seed,
        "config": asdict(config),
        "environment": versions,
        "data": {
            "train": {"n": len(source), "sha256": source.sha256},
            **{
                name: {"n": len(split), "sha256": split.sha256}
                | ({"class_list": names.index(split.classes)} if split.classes else {})
                for name, split in splits.items()
            },
        },
        "classes": list(ready.parts.classes),
        "class_lists": [list(of) for of in names],
        "warnings": noted,
        "parameters": {"trained": trained, "total": total},
        "pretrained_weight": getattr(getattr(ready.method, "teacher", None), "pretrained_weight", None),
        "steps": ready.plan.total_steps,
        "seconds": seconds,
        "seconds_per_step": median(b - a for a, b in pairwise(marks)) if len(marks) > 1 else None,
        "results": results,
    }


def _noted(ready: Ready) -> list[str]:
    """What this rank was warned of while it read training images."""
    return list(getattr(ready.parts.source, "warnings", ()))


_STARTS: dict[tuple[object, ...], dict[str, Any]] = {}


def _evaluated(ready: Ready, models: Mapping[str, nn.Module], predictions: Path | None) -> dict[str, dict[str, Any]]:
    """Metrics of the start and of what came out; without ``predictions`` a known start is not evaluated again."""
    splits, tokenize, start = ready.parts.suite.splits(), ready.loaded.tokenize, {"pretrained": ready.pretrained}
    if predictions is not None:
        results = evaluate_models({**start, **models}, splits, tokenize, predictions)
        save_examples(predictions, splits, ready.config.examples)
        return results
    key = (ready.plan.fingerprint["model_sha256"], *(split.sha256 for split in splits.values()))
    if key not in _STARTS:
        _STARTS[key] = evaluate_models(start, splits, tokenize)["pretrained"]
    return {"pretrained": _STARTS[key], **evaluate_models(models, splits, tokenize)}


# What a process leaves that was killed while it wrote one of these, see `write_text`.
_HALF_WRITTEN = re.compile(r"\.(config\.yaml|record\.json|report\.html)\.[0-9a-f]{12}\.tmp")


@contextmanager
def _claimed(folder: Path, config: FinetuneConfig, resume: bool) -> Iterator[None]:
    """Make the run folder, write what the run is and keep others out, or refuse one that is in use."""
    written = folder / "config.yaml"
    if resume and not written.is_file():
        raise RunFolderError(f"{folder}: nothing to resume, no config.yaml there; start without --resume")
    if resume:  # also before the first checkpoint, which would tell the same
        refuse_changes(*(flat(asdict(c) | {"out": None, "log": None}) for c in (read_config(written), config)))
    used = RunFolderError(
        f"{folder}: exists and is not empty; choose another --out, or go on with `tracerft finetune --resume {folder}`"
    )
    if folder.exists() and not folder.is_dir():
        raise used
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(held(folder))
            halves = [path for path in folder.iterdir() if _HALF_WRITTEN.fullmatch(path.name)]
            if not resume and len(halves) < len(list(folder.iterdir())):
                raise used
            halves += folder.rglob(".tmp??????") if resume else []  # safetensors' own, of models and predictions
            for half in halves:  # the lock says that nobody is writing them any more
                half.unlink()
            if not resume:
                write_text(written, yaml.safe_dump(asdict(config), sort_keys=False))
        except TracerftError:
            raise
        except OSError as error:
            raise RunFolderError(f"{folder}: cannot be written ({error.strerror}); choose another --out") from error
        try:
            yield
        except TracerftError:
            if not resume and [path.name for path in folder.iterdir()] == [written.name]:
                written.unlink()  # refused before the first step: nothing to resume, so nothing in the way
                folder.rmdir()
            raise


def _probes(ready: Ready) -> tuple[Probe | None, int]:
    """What is measured during training, and after how many steps the trainer asks whether anything is due."""
    total, guard, method = ready.plan.total_steps, ready.guard, ready.method
    wanted: list[tuple[int, Probe]] = [(ready.plan.probe_every, _probe(ready))] if ready.plan.probe_every else []
    if guard is not None:

        def guarded(step: int) -> Mapping[str, float]:
            teacher = getattr(method, "teacher", None)
            also = {} if teacher is None else {"teacher": teacher.averaged}
            return guard.probe(step, {"student": ready.loaded.model, **also})

        wanted.append((ready.config.guard.every or max(1, -(-total // 10)), guarded))

    def measure(step: int) -> Mapping[str, float]:
        due = [probe for every, probe in wanted if step == total or step % every == 0]
        return {name: value for probe in due for name, value in probe(step).items()}

    return measure if wanted else None, gcd(*(every for every, _ in wanted))


def _probe(ready: Ready) -> Probe:
    """Teacher-student gap on held-out images; empty for a method without a teacher."""
    suite: Suite = ready.parts.suite
    split = suite.selection.get("id", suite.id)
    student = ready.loaded.model
    images = next(iter(split.images.image_batches())).to(ready.plan.device)

    def measure(step: int) -> Mapping[str, float]:
        teacher = getattr(ready.method, "teacher", None)
        if teacher is None:
            return {}
        return teacher_student_gap(teacher.averaged, student, images, split.prompts, ready.loaded.tokenize)

    return measure
