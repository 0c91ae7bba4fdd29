"""A gloo group for `test_ranks`, and gradients of one batch: each function is one rank's part and leaves files behind.

Child processes import this file, so it holds what both sides need. Whole runs are in `rank_runs`.
"""

import datetime
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import save_file
from torch import nn

from tests.conftest import SMALL
from tests.methods.test_contract import build, student
from tracerft.distributed import World, gather_rows, joined
from tracerft.losses import tiled
from tracerft.models.encoder import embed
from tracerft.models.tiny import tokenize
from tracerft.training.gradcache import Passes
from tracerft.training.ranks import sum_gradients
from tracerft.types import Batch

LOSSES = list(product((0.0, 1.0), repeat=4))  # fd, crd, icl, cross_kd
TYPES = {"float64": torch.float64, "float32": torch.float32}
SIZE = 7  # rows of a batch: 4 and 3 on two ranks


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


def run_ranks(function, size: int, folder: Path, *arguments, limit: float = 900) -> None:
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


def gradients(world: World, folder: Path, splits, types=tuple(TYPES), chunks=1, name="gradients") -> None:
    """Loss and gradients of every combination of terms, type and split of the rows; all in one file a rank."""
    found = {}
    for (number, loss), kind, sizes in product(enumerate(LOSSES), types, splits):
        model, method = apart(loss, TYPES[kind])
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
        terms = passes.backward(Digits(TYPES[kind]).batch(rows, 0))
        sum_gradients(model, world)
        values = {"loss": terms.total.detach()}
        values |= {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        for parameter, value in values.items():
            found[f"{number} {kind} {'+'.join(map(str, sizes))} {parameter}"] = value.clone()
    save_file(found, folder / f"{name}-{world.rank}.safetensors")


def shared_out(world: World, folder: Path, splits) -> None:
    """The same in float64 with the loss of large batches, whose tiles, of two rows here, the ranks share out."""
    with mock.patch.object(tiled, "LARGE", 1), mock.patch.multiple(tiled, BLOCK=2 * SIZE, LEAST=1):
        gradients(world, folder, splits, ["float64"], name="shared-out")
        own_loop(world, folder, "own-loop-shared-out")


def own_loop(world: World, folder: Path, name="own-loop") -> None:
    """Gradients of torch's DistributedDataParallel around `gather_rows`, uneven rows."""
    model, method = apart(LOSSES[0], torch.float64)
    batch = Digits().batch(np.arange(SIZE), 0)
    mine = rows_of(batch, world.share(SIZE))
    parallel = nn.parallel.DistributedDataParallel(model)
    image, text, scale = parallel(mine.images, mine.tokens)
    sizes = world.sizes(SIZE)
    whole = embed(model, batch)  # for its type only
    pairs = replace(whole, image=gather_rows(image, sizes), text=gather_rows(text, sizes), scale=scale, gathered=True)
    method.objective(pairs, {}, batch).total.backward()
    if world.rank == 0:
        save_file({n: p.grad for n, p in model.named_parameters()}, folder / f"{name}.safetensors")
