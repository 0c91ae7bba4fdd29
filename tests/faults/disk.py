"""Disks that refuse, two writers, and polite signals: what the command says and what is left."""

import ctypes
import os
import resource
import signal
import time
from collections.abc import Callable
from typing import Any

from tests.faults.forks import Workshop, ended, start
from tests.runs import cut_at, finetune
from tracerft import running
from tracerft.reports import record
from tracerft.training import trainer
from tracerft.training.checkpoint import newest_checkpoint


def on_call(owner: Any, name: str, number: int, act: Callable[[], Any]) -> None:
    """Act once, before the ``number``-th call of a function."""
    real, calls = getattr(owner, name), [0]

    def watched(*arguments, **options):
        calls[0] += 1
        if calls[0] == number:
            act()
        return real(*arguments, **options)

    setattr(owner, name, watched)


def no_file_above(size: int) -> None:
    """From now on no file grows beyond so many bytes, as on a disk that is full there."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def offsets(shop: Workshop) -> dict[str, tuple[Any, str, int, int]]:
    """When the disk fills up (before which call) and at which byte of a file."""
    step = shop.folder / "unbroken" / "checkpoints" / "step-00000006"
    student, optimizer = ((step / f"{name}.safetensors").stat().st_size for name in ("student", "optimizer"))
    log = (shop.folder / "unbroken" / "metrics.jsonl").stat().st_size
    third = (trainer, "write_checkpoint", 3)
    return {
        "configuration, byte 10": (record, "write_text", 0, 10),
        "log line, byte 0": (trainer.Trainer, "_log", 4, 0),
        "log line, half of the log": (trainer.Trainer, "_log", 4, log // 2),
        "checkpoint, byte 0": (*third, 0),
        "checkpoint, byte 4096": (*third, 4096),
        "checkpoint, last byte of the student": (*third, student - 1),
        "checkpoint, last byte of the optimiser": (*third, optimizer - 1),
        "predictions, byte 64": (running, "_evaluated", 1, 64),
        "models, byte 64": (running, "save_model", 1, 64),
        "record, byte 64": (running, "write_json", 1, 64),
    }


def disk_full(shop: Workshop, name: str) -> dict[str, Any]:
    """A run on a disk that fills up, then its end after there is room again."""
    owner, function, number, size = offsets(shop)[name]
    out = shop.folder / name.replace(" ", "-")

    def prepare() -> None:
        if number:
            on_call(owner, function, number, lambda: no_file_above(size))
        else:
            no_file_above(size)

    code, lines = shop.command(*shop.new(out), prepare=prepare)
    newest, problems = newest_checkpoint(out / "checkpoints")
    return {
        "name": name, "code": code, "lines": lines, "step": newest.step if newest else None, "problems": problems,
        "differs": shop.finished(out),
    }  # fmt: skip


def obey_permissions() -> None:
    """Let root see what others see: drop CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, as `capset(2)` tells."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    data[0] &= ~0b110
    if libc.capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def read_only(shop: Workshop) -> dict[str, Any]:
    """A new run where nothing may be made, and a half-done run that may not be written."""
    closed, out = shop.folder / "closed", shop.folder / "half-done"
    closed.mkdir(mode=0o555)
    new = shop.command(*shop.new(closed / "run"), prepare=obey_permissions)
    assert ended(start(lambda: finetune(shop.model, shop.data, out, progress=cut_at(3), **shop.options))) == 99
    paths = [out, *out.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    resumed = shop.command("--resume", str(out), prepare=obey_permissions)
    for path in paths:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return {"new": new, "resumed": resumed, "differs": shop.finished(out)}


def two_writers(shop: Workshop) -> dict[str, Any]:
    """A run that waits after step 2 while two others want its folder."""
    out, paused, go = (shop.folder / name for name in ("shared", "paused", "go"))

    def wait(done, total, terms) -> None:
        if done == 2:
            paused.touch()
            until(go.exists)

    pid = start(lambda: finetune(shop.model, shop.data, out, progress=wait, **shop.options))
    until(paused.exists)
    resumed = shop.command("--resume", str(out))
    new = shop.command(*shop.new(out))
    go.touch()
    code = ended(pid)
    return {"resumed": resumed, "new": new, "code": code, "differs": shop.finished(out)}


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    """Wait, but not for ever."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def stopped(shop: Workshop, *signals: str) -> dict[str, Any]:
    """A run that gets signals from outside within its third step; then its end."""
    name = "-".join(signals)
    out, reached, sent = shop.folder / name, shop.folder / f"{name}.reached", shop.folder / f"{name}.sent"

    def wait() -> None:
        reached.touch()
        until(sent.exists)

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with it ignored
        on_call(trainer.Trainer, "_clamp_scale", 3, wait)

    pid, err = shop.spoken(*shop.new(out), prepare=prepare)
    until(reached.exists)
    began = time.monotonic()
    for each in signals:
        os.kill(pid, getattr(signal, each))
        time.sleep(0.05)
    sent.touch()
    lines = err.read().splitlines()
    code, seconds = ended(pid), time.monotonic() - began
    newest, _ = newest_checkpoint(out / "checkpoints")
    step = newest.step if newest else None
    return {"code": code, "seconds": seconds, "lines": lines, "step": step, "differs": shop.finished(out)}
