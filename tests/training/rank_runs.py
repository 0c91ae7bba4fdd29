"""Whole runs of ranks for `test_ranks`, resumed, spoilt, stopped, counted: each function is one rank's part."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn

from tests.conftest import SMALL
from tests.methods.steps import plan, random_batch
from tests.methods.test_contract import Captions, build, student
from tests.runs import finetune
from tests.training.ranks import SIZE, Digits, gradients, own_loop, shared_out
from tracerft.distributed import ALONE, World, gather_rows
from tracerft.errors import TracerftError
from tracerft.losses import tiled
from tracerft.training.trainer import Trainer

STEPS = 4


class DoubleCaptions(Captions):
    """ARF's anchors with images in float64; ARF runs the student inside its objective."""

    def search(self, embed):
        """Nothing: what is found does not depend on it."""

    def retrieved(self, sample_ids, step):
        """The same pairs for all."""
        batch = random_batch()
        return replace(batch, images=batch.images.double())


def trained(world: World, name: str, folder: Path, *, steps=STEPS, resume=False, **changes):
    """A trainer in float64 after its steps."""
    folder.mkdir(parents=True, exist_ok=True)
    method = build(name)
    if name.startswith("arf"):
        method._anchors_of_batch = DoubleCaptions()
    made = plan(STEPS, batch_size=SIZE, **{"checkpoint_every": 2, "lr": 1e-3} | changes)
    trainer = Trainer(student(name).double(), method, Digits(), made, folder, world=world)
    if resume:
        trainer.resume()
    if steps < STEPS:
        trainer.model.train()
        trainer._truncate_log(0)
        for _ in range(steps):
            trainer._one_step()
        trainer.save()
        return trainer
    trainer.run()
    return trainer


def tensors(trainer) -> dict[str, torch.Tensor]:
    """Weights of the student, and of the teacher if there is one."""
    found = {n: t.clone() for n, t in trainer.model.state_dict().items()}
    teacher = getattr(trainer.method, "teacher", None)
    if teacher is not None:
        found |= {f"teacher {n}": t.clone() for n, t in teacher.averaged.state_dict().items()}
    return found


def runs(world: World, folder: Path, names) -> None:
    """Whole runs of these methods."""
    for name in names:
        trainer = trained(world, name, folder / name)
        save_file(tensors(trainer), folder / f"{name}-{world.rank}.safetensors")
        (folder / f"asked-{world.rank}.json").write_text(json.dumps(trainer.source.asked))


def resumed(world: World, folder: Path) -> None:
    """TRACER in chunks, on from a checkpoint that one process wrote, and to one for a single process."""
    trainer = trained(world, "tracer", folder / "chunks", accumulate=3)
    save_file(tensors(trainer), folder / f"chunks-{world.rank}.safetensors")
    trainer = trained(world, "tracer", folder / "from-one", resume=True)
    save_file(tensors(trainer), folder / f"from-one-{world.rank}.safetensors")
    trained(world, "tracer", folder / "from-two", steps=2)


class Spoilt(Digits):
    """Digits whose images after some steps do what a test says."""

    def __init__(self, what):
        super().__init__()
        self.what = what

    def batch(self, sample_ids, epoch):
        """The second one spoilt."""
        batch = super().batch(sample_ids, epoch)
        if len(self.asked) == 2:
            return self.what(batch)
        return batch


def with_nan(batch):
    """One pixel that is no number."""
    return replace(batch, images=batch.images.index_fill(0, torch.tensor([0]), float("nan")))


def signal_after_one(step, total, terms):
    """A signal to this process alone, between the first step and the second."""
    if step == 1:
        os.kill(os.getpid(), signal.SIGUSR1)


def with_norm(model):
    """BatchNorm at the end of the image tower."""
    model.visual.norm = nn.BatchNorm1d(SMALL.width).double()
    return model


def troubles(world: World, folder: Path) -> None:
    """What each rank says when one of them is given a NaN or a signal, other options, another checkpoint."""
    said = {}

    def told(name, function):
        try:
            function()
        except TracerftError as error:
            said[name] = f"{type(error).__name__}: {error}"

    def run(name, what=None, change=lambda model: model, progress=None):
        (folder / name).mkdir(exist_ok=True)
        source = Spoilt(what) if what and world.rank == 1 else Digits()
        model = change(student("flyp").double())
        of = plan(STEPS, batch_size=SIZE)
        Trainer(model, build("flyp"), source, of, folder / name, world=world, progress=progress).run()

    told("nan", lambda: run("nan", with_nan))
    told("signal", lambda: run("signal", progress=signal_after_one if world.rank == 1 else None))
    told("norm", lambda: run("norm", change=with_norm))
    said["everywhere"] = world.everywhere([world.rank, "ä" * world.rank])
    told("sizes", lambda: gather_rows(torch.zeros(2, 1), [3] * world.size))
    (folder / f"said-{world.rank}.json").write_text(json.dumps(said))


def traffic(world: World, folder: Path, name="traffic") -> None:
    """Elements that a step of TRACER gathers and sums, by call."""
    counted = {"gathered": 0, "numbers gathered": 0, "summed": 0}
    gather, reduce = dist.all_gather, dist.all_reduce

    def all_gather(parts, tensor, *rest):
        counted["gathered" if tensor.is_floating_point() else "numbers gathered"] += sum(p.numel() for p in parts)
        return gather(parts, tensor, *rest)

    def all_reduce(tensor, *rest):
        counted["summed"] += tensor.numel() * tensor.is_floating_point()
        return reduce(tensor, *rest)

    dist.all_gather, dist.all_reduce = all_gather, all_reduce
    made = plan(STEPS, batch_size=8)
    (folder / name).mkdir(exist_ok=True)
    model = student("tracer").double()
    model.unused = nn.Parameter(torch.ones(3, dtype=torch.float64))  # no gradient on any rank: must not decay
    trainer = Trainer(model, build("tracer"), Digits(), made, folder / name, world=world)
    trainer._one_step()
    counted["unused"] = model.unused.tolist()
    dist.all_gather, dist.all_reduce = gather, reduce
    (folder / f"{name}-{world.rank}.json").write_text(json.dumps(counted))


def traffic_of_large(world: World, folder: Path) -> None:
    """The same where the loss is shared out."""
    with mock.patch.object(tiled, "LARGE", 1):
        traffic(world, folder, "traffic-of-large")


def command(world: World, folder: Path, model: Path, data: Path) -> None:
    """`tracerft.finetune` on ranks that were told different things, then on ranks that agree."""
    try:
        finetune(model, data, folder / "refused", train={"seed": world.rank})
        line = ""
    except TracerftError as error:
        line = f"{type(error).__name__}: {error}"
    groups = [len(dist.distributed_c10d._world.pg_map)]
    run = finetune(model, data, folder / "finetuned", train={"batch_size": 15})
    groups.append(len(dist.distributed_c10d._world.pg_map))
    (folder / f"command-{world.rank}.json").write_text(json.dumps([line, run.record, groups]))


def everything(world: World, folder: Path, names, model: Path, data: Path) -> None:
    """All of the above in one group, since starting processes takes longer than the work."""
    gradients(world, folder, [[4, 3], [3, 0]])
    gradients(world, folder, [[5, 2]], ["float64"], chunks=3, name="in-chunks")
    shared_out(world, folder, [[4, 3], [3, 0]])
    own_loop(world, folder)
    runs(world, folder, names)
    resumed(world, folder)
    troubles(world, folder)
    traffic(world, folder)
    traffic_of_large(world, folder)
    command(world, folder, model, data)


def four(world: World, folder: Path, splits) -> None:
    """What is asked of more than two ranks."""
    gradients(world, folder, splits)
    shared_out(world, folder, splits)
    traffic(world, folder)
    traffic_of_large(world, folder)


def alone(name: str, folder: Path, **changes):
    """`trained` in this process."""
    return trained(ALONE, name, folder, **changes)
