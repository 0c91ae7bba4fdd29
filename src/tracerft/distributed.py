"""Several processes that train one model: who they are, and what they tell each other. One alone never asks torch.

A rank is one of W processes. Every call below is made by all of them in the same order, or they wait for each other.
Imports `errors` only.
"""

import json
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tracerft.errors import ArgumentError, ShapeError, WorkerError

IN_A_STEP = timedelta(minutes=30)  # after which a rank that says nothing is taken for hung
A_SIGN = timedelta(seconds=30)  # for the others to notice the same, before those that have not are named
BACKENDS = "cpu:gloo,cuda:nccl"
PATIENCE = timedelta(days=7)  # while the first evaluates, however large the suite is


@dataclass(frozen=True)
class World:
    """The ranks of a run and this one among them.

    Args:
        rank: 0 to size - 1; the first writes the run's folder.
        size: W >= 1.
        patient: group for what may take long; ``None`` alone.
    """

    rank: int = 0
    size: int = 1
    patient: Any = None

    def sizes(self, rows: int) -> list[int]:
        """How many consecutive rows of a batch each rank has: they differ by one at most, the first ones have more."""
        return [rows // self.size + (rank < rows % self.size) for rank in range(self.size)]

    def part(self, rows: int) -> slice:
        """This rank's rows; empty where there are fewer rows than ranks."""
        sizes = self.sizes(rows)
        start = sum(sizes[: self.rank])
        return slice(start, start + sizes[self.rank])

    def share(self, rows: int) -> slice:
        """The same, but of a rank without any the first row, to know what one looks like."""
        mine = self.part(rows)
        return mine if mine.stop > mine.start else slice(0, 1)

    def sum_(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over all ranks, in place."""
        if self.size > 1:
            with _heard():
                dist.all_reduce(tensor)
        return tensor

    def largest(self, value: int) -> int:
        """The largest of the ranks' values."""
        if self.size == 1:
            return value
        found = torch.tensor(value)
        with _heard():
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def share_start_(self, tensors: Iterable[Tensor]) -> None:
        """Give every rank the first one's values, in place."""
        for tensor in tensors if self.size > 1 else ():
            dense = tensor.contiguous()
            with _heard():
                dist.broadcast(dense, 0)
            tensor.copy_(dense)

    def everywhere(self, value: Any) -> list[Any]:
        """Plain data of every rank, in their order; as JSON, since torch's own call for objects unpickles."""
        if self.size == 1:
            return [value]
        said = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = gather_rows(torch.tensor([len(said)]), [1] * self.size).tolist()
        parts = torch.split(gather_rows(said, sizes), sizes)
        return [json.loads(part.numpy().tobytes()) for part in parts]

    def wait(self) -> None:
        """Until all are here, for up to `PATIENCE`."""
        if self.size > 1:
            with _heard():
                dist.barrier(self.patient)


ALONE = World()


def ranks_here() -> World:
    """The ranks of torch's process group and this one among them; alone where there is none."""
    if not (dist.is_available() and dist.is_initialized()):
        return ALONE
    return World(dist.get_rank(), dist.get_world_size())


def gather_rows(tensor: Tensor, sizes: Sequence[int]) -> Tensor:
    """Rows of all ranks in their order, with gradient.

    Backward adds up what the ranks send to a row: if each computes the same loss L of the gathered rows, that is W
    times dL/drow, and the mean over ranks that torch's DistributedDataParallel takes makes it the gradient of one
    process with the whole batch.

    Args:
        tensor: ``(sizes[rank], ...)``; all but the number of rows, which may be 0, is the same on every rank.
        sizes: of all ranks, known to each; a single one is this process alone.

    Returns:
        ``(sum(sizes), ...)``.

    Raises:
        ShapeError: if `sizes` are not those of the ranks.
        WorkerError: if another rank is gone.
    """
    if len(sizes) == 1:
        return tensor
    if len(sizes) != dist.get_world_size() or len(tensor) != sizes[dist.get_rank()]:
        raise ShapeError(
            f"`sizes` must be the rows of each of {dist.get_world_size()} ranks; got {list(sizes)} and {len(tensor)} "
            f"rows on rank {dist.get_rank()}; gather the sizes first"
        )
    rows: Tensor = _Gathered.apply(tensor, list(sizes))
    return rows


class _Gathered(torch.autograd.Function):
    """`gather_rows`; padded to the longest, since gloo fills a tensor of another size with garbage without a word."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        padded = tensor.new_zeros((max(sizes), *tensor.shape[1:]))
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in sizes]
        with _heard():
            dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        summed = gradient.clone(memory_format=torch.contiguous_format)
        with _heard():
            dist.all_reduce(summed)
        return torch.split(summed, ctx.sizes)[dist.get_rank()], None


@contextmanager
def joined(device: str) -> Iterator[World]:
    """Be one of the ranks that torchrun (or a scheduler, by the same variables) started; alone without.

    A group that the program has made itself is used and left as it is; it must serve the CPU too, beside GPUs.

    Args:
        device: ``train.device``; on several ranks ``auto``, ``cuda`` (each rank its own) or ``cpu``.

    Raises:
        ArgumentError: if the variables are incomplete, a rank has no device of its own, or a group is for GPUs alone.
        WorkerError: if the ranks do not find each other.
    """
    if dist.is_available() and dist.is_initialized():
        backends = dist.get_backend_config()
        if dist.get_world_size() > 1 and "cpu:" not in backends:  # votes to stop and the like are numbers on the CPU
            raise ArgumentError(
                f"torch's process group must serve the CPU beside the GPUs; it has {backends}; make it with "
                f"init_process_group({BACKENDS!r})"
            )
        world = _world()
        yield world
        if world.patient is not None:
            dist.destroy_process_group(world.patient)
        return
    size = _variable("WORLD_SIZE", "1")
    if size == 1:
        yield ALONE
        return
    _text("MASTER_ADDR")
    for name in ("RANK", "MASTER_PORT"):
        _variable(name)
    backend = _backend(device)
    with _heard():
        dist.init_process_group(backend, timeout=IN_A_STEP)
    yield _world()
    # Not after an error: NCCL might wait there for ranks that are in a step; the end of the process closes all.
    dist.destroy_process_group()


def _world() -> World:
    here = ranks_here()
    with _heard():
        patient = dist.new_group(backend="gloo", timeout=PATIENCE) if here.size > 1 else None
    return replace(here, patient=patient)


def _backend(device: str) -> str:
    """Gloo for what lies on the CPU, NCCL for what lies on the rank's own GPU."""
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return "gloo"
    if device not in ("auto", "cuda"):
        raise ArgumentError(f"`train.device` must be auto, cuda or cpu on several ranks; got {device!r}")
    local, there = _variable("LOCAL_RANK"), torch.cuda.device_count()
    if local >= there:
        raise ArgumentError(
            f"`train.device`: rank {_variable('RANK')} would be number {local + 1} here and there are {there} GPUs; "
            "start as many processes as GPUs (torchrun --nproc-per-node), or set it to cpu"
        )
    torch.cuda.set_device(local)
    return BACKENDS


def _text(name: str, default: str | None = None) -> str:
    value = os.environ.get(name, default)
    if value is None:
        raise ArgumentError(
            f"{name} must be set beside WORLD_SIZE, which is {os.environ['WORLD_SIZE']}; start several processes with "
            "torchrun --nproc-per-node N -m tracerft finetune ..., or unset WORLD_SIZE"
        )
    return value


def _variable(name: str, default: str | None = None) -> int:
    value = _text(name, default)
    if not value.isdecimal():
        raise ArgumentError(f"{name} must be a number >= 0; got {value!r}; torchrun sets it")
    return int(value)


@contextmanager
def _heard() -> Iterator[None]:
    """Turn what torch says of a rank that is gone into one line."""
    try:
        yield
    except RuntimeError as error:  # torch's own errors of this kind are RuntimeErrors too
        raise _gone(error) from error


@contextmanager
def heard_inside() -> Iterator[None]:
    """The same around code in which torch sends by itself, such as a split model; other errors stay what they are."""
    try:
        yield
    except WorkerError:
        raise
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise _gone(error) from error
        raise


def _gone(error: RuntimeError) -> WorkerError:
    reason = " ".join(str(error).split())[:200]
    silent = _silent(hung="imed out" in reason)
    if silent:
        return WorkerError(
            f"no sign of rank {', '.join(map(str, silent))} ({reason}); look at that process and its machine, and "
            "end it; the last checkpoint is unharmed, go on with --resume"
        )
    return WorkerError(
        f"another rank ended or is not reached ({reason}); its own line, or torchrun's list of failures, names it; "
        "the last checkpoint is unharmed, go on with --resume"
    )


def _silent(*, hung: bool) -> list[int]:
    """Leave a sign of this rank, which lost touch; of a rank that hangs, which ones leave none within `A_SIGN`.

    The first rank whose patience ends closes its connections, so that all ranks which still run lose touch with it.
    """
    if not dist.is_initialized():
        return []
    rank, store = dist.get_rank(), dist.distributed_c10d._get_default_store()  # there is no public way to the group's
    try:
        store.set(f"tracerft/lost/{rank}", "")
    except RuntimeError:  # rank 0 or torchrun held the store and has ended
        return []
    if not hung:
        return []
    silent = [0]  # holds the store, or torchrun beside it does: a store that never answers

    def look() -> None:
        missing, ends = set(range(dist.get_world_size())) - {rank}, time.monotonic() + A_SIGN.total_seconds()
        try:
            while missing and time.monotonic() < ends:
                missing = {other for other in missing if not store.check([f"tracerft/lost/{other}"])}
                time.sleep(0.1)
        except RuntimeError:  # the rank that held the store has looked to its end and has ended
            missing.discard(0)
        silent[:] = sorted(missing)

    looking = threading.Thread(target=look, daemon=True)  # the call itself knows no end
    looking.start()
    looking.join(1.5 * A_SIGN.total_seconds())
    return silent
