"""What processes of a gloo group do for `test_ranks`: each function is one rank's part and leaves files behind.

Child processes import this file, so it holds what both sides need: data, models, steps.
"""

import datetime
import json
import os
import signal
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import save_file
from torch import nn

from tests.conftest import SMALL
from tests.methods.steps import plan, random_batch
from tests.methods.test_contract import Captions, build, student
from tracerft.distributed import ALONE, World, gather_rows, joined
from tracerft.errors import TracerftError
from tracerft.models.encoder import embed
from tracerft.models.tiny import tokenize
from tracerft.training.gradcache import Passes
from tracerft.training.ranks import refuse_differences, sum_gradients
from tracerft.training.trainer import Trainer
from tracerft.types import Batch

LOSSES = list(product((0.0, 1.0), repeat=4))  # fd, crd, icl, cross_kd
TYPES = {"float64": torch.float64, "float32": torch.float32}
STEPS, SIZE = 4, 7  # 7 rows: 4 and 3 on two ranks


class Digits:
    """Twenty keyed random images with eight captions, as a source that reads only what it is asked for."""

    def __init__(self, dtype=torch.float64, size=20):
        self.images = torch.rand(size, 3, 28, 28, generator=torch.Generator().manual_seed(0)).to(dtype)
        self.tokens = tokenize(["zero", "one", "two", "three", "four", "five", "six", "seven"], SMALL.context)
        self.asked = []

    def __len__(self):
        return len(self.images)

    def batch(self, sample_ids, epoch):
        """Rows of these samples."""
        self.asked.append(sample_ids.tolist())
        labels = torch.from_numpy(sample_ids * 3 % 8)
        return Batch(
            self.images[sample_ids], self.tokens[labels], labels, labels, torch.from_numpy(np.array(sample_ids))
        )


def run_ranks(function, size: int, folder: Path, *arguments, limit: float = 120) -> None:
    """Call ``function(world, folder, *arguments)`` in ``size`` processes of a gloo group."""
    folder.mkdir(parents=True, exist_ok=True)
    context = mp.spawn(_child, (size, function, folder, arguments), nprocs=size, join=False)
    ends = datetime.datetime.now() + datetime.timedelta(seconds=limit)
    while not context.join(timeout=1):
        if datetime.datetime.now() > ends:
            for process in context.processes:
                process.kill()
            raise TimeoutError(f"{function.__name__} on {size} ranks took more than {limit} s")


def _child(rank, size, function, folder, arguments):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/.store", rank=rank, world_size=size)
    with joined("cpu") as world:
        function(world, folder, *arguments)
        world.wait()
    dist.destroy_process_group()


# Gradients of one batch ----------------------------------------------------------------------------------------------


def apart(loss, dtype):
    """A student that has left its teacher, so that no term is 0, and the method, targets with equal captions."""
    names = ("fd", "crd", "icl", "cross_kd")
    targets = ("diagonal", "multi_positive")[int(sum(loss)) % 2]
    method = build("tracer", loss=dict(zip(names, loss, strict=True)) | {"targets": targets})
    model = student("tracer").to(dtype)
    method.start(model, 10)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator, dtype=torch.float64).to(dtype))
    return model, method


def rows_of(batch, rows):
    """Some rows of a batch."""
    names = ("images", "tokens", "labels", "caption_ids", "sample_ids")
    return replace(batch, **{name: getattr(batch, name)[rows] for name in names})


def whole_gradient(loss, dtype, total):
    """Loss and gradients by plain autograd in one process: none of the code that knows of ranks or chunks."""
    model, method = apart(loss, dtype)
    batch = Digits(dtype).batch(np.arange(total), 0)
    with torch.no_grad():
        references = {name: embed(m, batch) for name, m in method.references().items()}
    terms = method.objective(embed(model, batch), references, batch)
    terms.total.backward()
    return {"loss": terms.total.detach()} | {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def gradients(world: World, folder: Path, splits, types=tuple(TYPES), chunks=1) -> None:
    """Loss and gradients of every combination of terms, type and split of the rows; all in one file a rank."""
    found = {}
    for (number, loss), name, sizes in product(enumerate(LOSSES), types, splits):
        model, method = apart(loss, TYPES[name])
        start = sum(sizes[: world.rank])
        rows = np.arange(start, start + sizes[world.rank]) if sizes[world.rank] else np.arange(1)
        passes = Passes(
            model=model,
            method=method,
            chunks=chunks,
            autocast=partial(torch.autocast, "cpu", torch.bfloat16, enabled=False),
            seed=lambda purpose: 0,
            rank=world.rank,
            sizes=sizes,
        )
        terms = passes.backward(Digits(TYPES[name]).batch(rows, 0))
        sum_gradients(model, world)
        values = {"loss": terms.total.detach()}
        values |= {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        for parameter, value in values.items():
            found[f"{number} {name} {'+'.join(map(str, sizes))} {parameter}"] = value.clone()
    save_file(found, folder / f"gradients-{chunks}-{world.rank}.safetensors")


def own_loop(world: World, folder: Path) -> None:
    """Gradients of torch's DistributedDataParallel around `gather_rows`, uneven rows."""
    model, method = apart(LOSSES[0], torch.float64)
    batch = Digits().batch(np.arange(SIZE), 0)
    mine = rows_of(batch, world.share(SIZE))
    parallel = nn.parallel.DistributedDataParallel(model)
    image, text, scale = parallel(mine.images, mine.tokens)
    sizes = world.sizes(SIZE)
    whole = embed(model, batch)  # for its type only
    pairs = replace(whole, image=gather_rows(image, sizes), text=gather_rows(text, sizes), scale=scale)
    method.objective(pairs, {}, batch).total.backward()
    if world.rank == 0:
        save_file({n: p.grad for n, p in model.named_parameters()}, folder / "own-loop.safetensors")


# Runs ----------------------------------------------------------------------------------------------------------------


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


def with_signal(batch):
    """A signal to this process alone."""
    os.kill(os.getpid(), signal.SIGUSR1)
    return batch


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

    def run(name, what=None, change=lambda model: model):
        (folder / name).mkdir(exist_ok=True)
        source = Spoilt(what) if what and world.rank == 1 else Digits()
        model = change(student("flyp").double())
        Trainer(model, build("flyp"), source, plan(STEPS, batch_size=SIZE), folder / name, world=world).run()

    told("nan", lambda: run("nan", with_nan))
    told("signal", lambda: run("signal", with_signal))
    told("norm", lambda: run("norm", change=with_norm))
    told("options", lambda: refuse_differences(world, {"train.lr": 1e-3 * (1 + world.rank), "train.seed": 0}))
    said["everywhere"] = world.everywhere([world.rank, "ä" * world.rank])
    told("sizes", lambda: gather_rows(torch.zeros(2, 1), [3] * world.size))
    (folder / f"said-{world.rank}.json").write_text(json.dumps(said))


def traffic(world: World, folder: Path) -> None:
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
    (folder / "traffic").mkdir(exist_ok=True)
    trainer = Trainer(student("tracer").double(), build("tracer"), Digits(), made, folder / "traffic", world=world)
    trainer._one_step()
    dist.all_gather, dist.all_reduce = gather, reduce
    (folder / f"traffic-{world.rank}.json").write_text(json.dumps(counted))


def everything(world: World, folder: Path, names) -> None:
    """All of the above in one group, since starting processes takes longer than the work."""
    gradients(world, folder, [[4, 3], [3, 0]])
    gradients(world, folder, [[5, 2]], ["float64"], chunks=3)
    own_loop(world, folder)
    runs(world, folder, names)
    resumed(world, folder)
    troubles(world, folder)
    traffic(world, folder)


def alone(name: str, folder: Path, **changes):
    """`trained` in this process."""
    return trained(ALONE, name, folder, **changes)
