"""Places in a run where a process can be made to kill itself, with what would be half done left half done."""

import os
import shutil
import signal
from collections.abc import Callable

from tracerft import running
from tracerft.averaging import storage
from tracerft.evaluation import examples, suite
from tracerft.models import weights
from tracerft.models.tiny import TinyDualEncoder
from tracerft.training import checkpoint, trainer

Hit = Callable[[], bool]  # told that the place is reached; says whether it is time


def die() -> None:
    """No handler, no `finally`, no flushed file."""
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner, name):
    """Die instead of the call."""

    def install(hit: Hit) -> None:
        real = getattr(owner, name)

        def killed(*arguments, **options):
            if hit():
                die()
            return real(*arguments, **options)

        setattr(owner, name, killed)

    return install


def after(owner, name, when=lambda *arguments: True):
    """Die when the call has returned."""

    def install(hit: Hit) -> None:
        real = getattr(owner, name)

        def killed(*arguments, **options):
            result = real(*arguments, **options)
            if when(*arguments) and hit():
                die()
            return result

        setattr(owner, name, killed)

    return install


def half(owner, name):
    """Die with the second half of the file that the call writes missing; its first argument is the path."""

    def install(hit: Hit) -> None:
        real = getattr(owner, name)

        def killed(path, *arguments):
            result = real(path, *arguments)
            if hit():
                os.truncate(path, path.stat().st_size // 2)
                die()
            return result

        setattr(owner, name, killed)

    return install


def before_its_rename(owner, name):
    """Die as safetensors would within `save_file`: with a temporary file beside the one to be written."""

    def install(hit: Hit) -> None:
        real = getattr(owner, name)

        def killed(path, *arguments):
            if hit():
                (path.parent / ".tmpAb12Cd").write_bytes(b"half")
                die()
            return real(path, *arguments)

        setattr(owner, name, killed)

    return install


def rename(start, *, done):
    """Die before or after the rename to a name that starts so."""

    def install(hit: Hit) -> None:
        real = os.replace

        def killed(source, target):
            due = os.path.basename(target).startswith(start) and hit()
            if due and not done:
                die()
            real(source, target)
            if due:
                die()

        os.replace = killed

    return install


def half_line(hit: Hit) -> None:
    """Die within a line of the log."""
    real = trainer.Trainer._log

    def killed(self, values):
        if values and hit():
            with self._metrics.open("a") as file:
                file.write('{"step": 3, "lo')
            die()
        real(self, values)

    trainer.Trainer._log = killed


def half_pruned(hit: Hit) -> None:
    """Die when an old checkpoint has lost its manifest only."""
    real = shutil.rmtree

    def killed(path, **options):
        if os.path.basename(path).startswith("step-") and hit():
            (path / checkpoint.MANIFEST).unlink()
            die()
        real(path, **options)

    shutil.rmtree = killed


POINTS = {
    "config, before its rename": rename("config.yaml", done=False),
    "config written": rename("config.yaml", done=True),
    "forward": before(TinyDualEncoder, "encode_image"),
    "gradients there": before(trainer.Trainer, "_checked"),
    "optimiser step": before(trainer.Trainer, "_clamp_scale"),
    "teacher update": after(storage, "absorb"),
    "log line, half": half_line,
    "log line": after(trainer.Trainer, "_log"),
    "checkpoint part, half": half(checkpoint, "_write_part"),
    "checkpoint part": after(checkpoint, "_write_part"),
    "manifest": after(checkpoint, "_write_part", lambda path, data: path.name == checkpoint.MANIFEST),
    "checkpoint, before its rename": rename("step-", done=False),
    "checkpoint renamed": rename("step-", done=True),
    "old checkpoint half removed": half_pruned,
    "old checkpoints removed": after(checkpoint, "prune"),
    "evaluation": before(suite.Predictor, "score"),
    "predictions, half": half(suite, "save_tensors"),
    "predictions, before their rename": before_its_rename(suite, "save_tensors"),
    "examples, half": half(examples, "save_tensors"),
    "model, half": half(weights, "save_tensors"),
    "model, before its rename": before_its_rename(weights, "save_tensors"),
    "model saved": after(running, "save_model"),
    "record, before its rename": rename("record.json", done=False),
    "record written": rename("record.json", done=True),
    "report": before(running, "write_run_report"),
}
