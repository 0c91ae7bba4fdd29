"""The loop, on one page: embed, objective, backward, penalty, check, step, teacher, log, save."""

import json
import math
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tracerft.data.sampling import batch_at, keys
from tracerft.distributed import ALONE, World, heard_inside
from tracerft.errors import CheckpointError, NonFiniteError, StateError
from tracerft.methods import Method
from tracerft.split import whole
from tracerft.training.ahead import Ahead
from tracerft.training.checkpoint import (
    Checkpoint,
    in_order,
    newest_checkpoint,
    prune,
    remove_half_written,
    restore,
    split_state,
    write_checkpoint,
)
from tracerft.training.compiled import compile_run
from tracerft.training.gradcache import Passes
from tracerft.training.optim import adamw, learning_rate, load_optimizer_tensors, optimizer_tensors
from tracerft.training.plan import Plan, Source
from tracerft.training.ranks import refuse_differences, sum_gradients
from tracerft.training.shards import gradient_norm, shard
from tracerft.training.stopping import stop_requests
from tracerft.types import Batch

MAX_LOG_SCALE = math.log(100.0)  # CLIP's own clamp; a model that starts above (SigLIP) keeps its start as the cap


Probe = Callable[[int], Mapping[str, float]]
Progress = Callable[[int, int, Mapping[str, float]], None]


class Trainer:
    """One finetuning run; all that changes is in the model, the method, the optimiser and ``step``.

    Args:
        model: the student, on its device, frozen parts marked by ``requires_grad``.
        method: what to optimise; `Method.start` is called here, so the model must still be pretrained.
        source: training batches.
        plan: length, rates, intervals.
        folder: the run's folder, for ``metrics.jsonl`` and ``checkpoints``.
        probe: measurements during training, called after step 0, every ``probe_every`` and the last.
        progress: told after every step.
        world: the ranks that train together; only the first one writes, measures and tells.

    ``split`` says whether the models are split over the ranks.
    ``follow`` may be set to be told of every line that goes to ``metrics.jsonl``.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        source: Source,
        plan: Plan,
        folder: Path,
        *,
        probe: Probe | None = None,
        progress: Progress | None = None,
        world: World = ALONE,
    ) -> None:
        self.world = world
        self.model, self.method, self.source, self.plan, self.folder = model, method, source, plan, folder
        self.probe, self.progress = probe, progress
        self.follow: Callable[[int, Mapping[str, float]], None] | None = None
        method.start(model, plan.total_steps)
        if plan.compile:
            compile_run(model, method)
        world.share_start_(model.state_dict().values())  # a head that was fitted at the start may differ by rounding
        self.split = plan.shard and world.size > 1
        if self.split:
            shard(model, method, plan, world)
        self.optimizer = adamw(model, lr=plan.lr, weight_decay=plan.weight_decay)
        self.step = 0
        # Not a method of this object: through the thread it would keep model and moments until a garbage collection.
        self._batches = Ahead(partial(_batch, source, plan, world), plan.total_steps)
        scale = getattr(model, "logit_scale", None)
        self._max_log_scale = max(MAX_LOG_SCALE, float(scale.detach())) if isinstance(scale, Tensor) else MAX_LOG_SCALE

    def run(self) -> None:
        """Train from ``step`` to the end.

        Raises:
            NonFiniteError: before the teacher takes in a NaN.
            StoppedError: after SIGTERM or SIGUSR1, the step finished and saved; Ctrl-C is a `KeyboardInterrupt` then.
        """
        self.model.train()
        if self.step == 0:
            self._truncate_log(0)
            self._log(self._probe())
        with stop_requests() as request:
            stopping = False
            while self.step < self.plan.total_steps and not stopping:
                terms = self._one_step()
                last = self.step == self.plan.total_steps
                line: dict[str, float] = dict(terms) if last or self._due(self.plan.log_every) else {}
                line |= self._probe() if last or self._due(self.plan.probe_every) else {}
                self._log(line)
                stopping = request.asked(self.world)  # read once: a step that is left must have been saved
                if last or stopping or self._due(self.plan.checkpoint_every):
                    self.save()
                if self.progress:
                    self.progress(self.step, self.plan.total_steps, terms)
            request.refuse_to_go_on(
                f"step {self.step} of {self.plan.total_steps} is saved; go on with "
                f"`tracerft finetune --resume {self.folder}`"
            )

    def _one_step(self) -> dict[str, float]:
        plan = self.plan
        epoch, batch = self._batches.take(self.step)
        batch = batch.to(plan.device)
        rate = learning_rate(self.step, total_steps=plan.total_steps, peak=plan.lr, warmup_steps=plan.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        passes = Passes(
            model=self.model,
            method=self.method,
            chunks=plan.accumulate,
            autocast=partial(torch.autocast, plan.device.type, torch.bfloat16, enabled=plan.autocast),
            seed=lambda purpose: int(keys(plan.seed, epoch, np.array([self.step]), purpose)[0] >> np.uint64(1)),
            rank=self.world.rank,
            sizes=self.world.sizes(plan.batch_size),
        )
        with torch.random.fork_rng(devices=[]):  # dropout and the like: keyed by the step, never left over
            with heard_inside() if self.split else nullcontext():
                terms = passes.backward(batch)
            sum_gradients(self.model, self.world)
            penalty = self.method.penalty(self.model)
        logged = {"loss": terms.total.detach(), **terms.parts}
        if penalty is not None:
            penalty.total.backward()  # type: ignore[no-untyped-call]
            logged = {**logged, "loss": logged["loss"] + penalty.total.detach(), **penalty.parts}
        values = self._checked(logged, batch)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._clamp_scale()
        self.step += 1
        self.method.after_step(self.model)
        return {**values, "lr": rate, "epoch": epoch}

    def _checked(self, terms: Mapping[str, Tensor], batch: Batch) -> dict[str, float]:
        """All values as numbers, in one transfer from the device."""
        terms = {**terms, "grad_norm": gradient_norm(self.model, self.world, self.plan.replicas)}
        where = terms["loss"].device
        together = torch.stack([torch.as_tensor(value, device=where).reshape(()) for value in terms.values()])
        values = dict(zip(terms, together.tolist(), strict=True))
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if self.world.largest(len(bad)):  # all stop, or none
            shown = ", ".join(str(int(i)) for i in batch.sample_ids[:5])
            raise NonFiniteError(
                f"step {self.step + 1}: {', '.join(bad) or 'another rank'} not finite (samples {shown}, ...); the "
                "teacher and the last checkpoint are unharmed; lower train.lr or check these samples"
            )
        return values

    @torch.no_grad()
    def _clamp_scale(self) -> None:
        scale = getattr(self.model, "logit_scale", None)
        if isinstance(scale, nn.Parameter) and scale.requires_grad:
            scale.clamp_(0.0, self._max_log_scale)

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _probe(self) -> dict[str, float]:
        found = dict(self.probe(self.step)) if self.probe and self.world.rank == 0 else {}
        self.world.wait()
        return found

    @property
    def _metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    def _log(self, values: Mapping[str, float]) -> None:
        if values and self.world.rank == 0:
            with self._metrics.open("a") as file:
                file.write(json.dumps({"step": self.step, **values}) + "\n")
            if self.follow:
                self.follow(self.step, values)

    def _truncate_log(self, size: int) -> None:
        """Drop log lines of steps that a resumed run is going to take again.

        Raises:
            CheckpointError: if lines of steps before are missing, since they cannot be written again.
        """
        found = self._metrics.stat().st_size if self._metrics.is_file() else 0
        if found < size:
            raise CheckpointError(
                f"{self._metrics}: {found} bytes, the checkpoint was made after {size}; put the log back, or start a "
                "new run in another folder"
            )
        if self.world.rank == 0:
            with self._metrics.open("ab") as file:
                file.truncate(size)

    def save(self) -> None:
        """Write a checkpoint of this step; every rank comes back when the first has written it."""
        if self.world.rank == 0:
            self._write()
        elif self.split:
            for tensor in in_order(self._parts()[0]):  # the first one writes each as it is gathered
                whole(tensor)
        self.world.wait()

    def _parts(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Tensors to be saved, and the method's plain values."""
        method_tensors, method_plain = split_state(self.method.state_dict())
        parts = {
            "student": dict(self.model.state_dict()),
            "optimizer": optimizer_tensors(self.model, self.optimizer),
            "method": method_tensors,
        }
        return parts, method_plain

    def _write(self) -> None:
        with self._metrics.open("ab") as file:  # the lines that the checkpoint counts on have to outlive it
            os.fsync(file.fileno())
        parts, method_plain = self._parts()
        state = {
            "fingerprint": dict(self.plan.fingerprint),
            "method": method_plain,
            "log_bytes": self._metrics.stat().st_size,
        }
        write_checkpoint(self.folder / "checkpoints", Checkpoint(self.step, parts, state))

    def resume(self) -> list[str]:
        """Go back to the newest valid checkpoint, if there is one.

        Returns:
            One line for each damaged checkpoint that was passed over.

        Raises:
            CheckpointError: if there are checkpoints and none is whole, such as those of a later version, or if the log
                is shorter than it was.
            StateError: if the checkpoint was made by another configuration, model or data set, or the ranks find
                different ones.
        """
        root = self.folder / "checkpoints"
        if self.world.rank == 0:
            remove_half_written(root)
        checkpoint, problems = newest_checkpoint(root)
        refuse_differences(self.world, {"step of the newest checkpoint": checkpoint.step if checkpoint else None})
        if checkpoint is None and problems:  # starting over would write over what may still be rescued
            raise CheckpointError(
                f"{root}: none of {len(problems)} checkpoints can be used, the newest: {problems[0]}; put a whole one "
                "back, or start a new run in another folder"
            )
        if checkpoint is None:
            return []
        refuse_changes(checkpoint.state["fingerprint"], self.plan.fingerprint)
        restore(checkpoint, self.model, self.method)
        load_optimizer_tensors(self.model, self.optimizer, checkpoint.parts["optimizer"])
        self.step = checkpoint.step
        self._truncate_log(checkpoint.state["log_bytes"])
        # A kill may have come before it; beside damaged ones, every other is worth keeping.
        if not problems and self.world.rank == 0:
            prune(root)
        return problems


def _batch(source: Source, plan: Plan, world: World, step: int) -> tuple[int, Batch]:
    """Epoch of a step, and this rank's rows of its batch."""
    epoch, sample_ids = batch_at(step, plan.seed, len(source), plan.batch_size)
    return epoch, source.batch(sample_ids[world.share(len(sample_ids))], epoch)


def refuse_changes(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `StateError` with a diff unless both fingerprints are equal."""
    changed = [
        f"{key}: {saved.get(key)!r} then, {now.get(key)!r} now"
        for key in sorted(set(saved) | set(now))
        if saved.get(key) != now.get(key)
    ]
    if changed:
        raise StateError(
            f"the run cannot be resumed, since {len(changed)} thing(s) changed: {'; '.join(changed)}; "
            "put them back, or start a new run in another folder"
        )
