"""The loop, on one page: embed, objective, backward, penalty, check, step, teacher, log, save."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tracerft.data.sampling import batch_at, keys
from tracerft.errors import NonFiniteError, StateError
from tracerft.methods import Method
from tracerft.models.encoder import embed
from tracerft.models.features import capture
from tracerft.training.checkpoint import (
    Checkpoint,
    join_state,
    newest_checkpoint,
    split_state,
    write_checkpoint,
)
from tracerft.training.optim import adamw, learning_rate, load_optimizer_tensors, optimizer_tensors
from tracerft.types import Batch, Embeddings

MAX_LOG_SCALE = math.log(100.0)  # CLIP's own clamp; a model that starts above (SigLIP) keeps its start as the cap


class Source(Protocol):
    """Where training batches come from."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def batch(self, sample_ids: NDArray[np.int64], epoch: int) -> Batch:
        """The batch of these samples in this epoch; a pure function of both."""
        ...


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long, how fast, how often.

    Args:
        total_steps: T optimiser steps, fixed at the start.
        batch_size: pairs in a batch.
        lr: peak learning rate.
        weight_decay: of AdamW.
        warmup_steps: linear warm-up.
        seed: of order and randomness.
        log_every, checkpoint_every, probe_every: steps between log lines, checkpoints and probes; 0 is
            never (the last step is always logged).
        device: where the model is.
        autocast: bf16 autocast of the forward passes.
        fingerprint: what must be the same on resume.
    """

    total_steps: int
    batch_size: int
    lr: float
    weight_decay: float
    warmup_steps: int
    seed: int
    log_every: int
    checkpoint_every: int
    probe_every: int
    device: torch.device
    autocast: bool
    fingerprint: Mapping[str, Any]


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
    ) -> None:
        self.model, self.method, self.source, self.plan, self.folder = model, method, source, plan, folder
        self.probe, self.progress = probe, progress
        method.start(model, plan.total_steps)
        self.optimizer = adamw(model, lr=plan.lr, weight_decay=plan.weight_decay)
        self.step = 0
        scale = getattr(model, "logit_scale", None)
        self._max_log_scale = max(MAX_LOG_SCALE, float(scale.detach())) if isinstance(scale, Tensor) else MAX_LOG_SCALE

    def run(self) -> None:
        """Train from ``step`` to the end.

        Raises:
            NonFiniteError: before the teacher takes in a NaN.
        """
        self.model.train()
        if self.step == 0:
            self._truncate_log(0)
            self._log(self._probe())
        while self.step < self.plan.total_steps:
            terms = self._one_step()
            last = self.step == self.plan.total_steps
            line: dict[str, float] = dict(terms) if last or self._due(self.plan.log_every) else {}
            line |= self._probe() if last or self._due(self.plan.probe_every) else {}
            self._log(line)
            if last or self._due(self.plan.checkpoint_every):
                self.save()
            if self.progress:
                self.progress(self.step, self.plan.total_steps, terms)

    def _one_step(self) -> dict[str, float]:
        plan = self.plan
        epoch, sample_ids = batch_at(self.step, plan.seed, len(self.source), plan.batch_size)
        batch = self.source.batch(sample_ids, epoch).to(plan.device)
        rate = learning_rate(self.step, total_steps=plan.total_steps, peak=plan.lr, warmup_steps=plan.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.random.fork_rng(devices=[]):  # dropout and the like: keyed by the step, never left over
            torch.manual_seed(int(keys(plan.seed, epoch, np.array([self.step]), "step")[0] >> np.uint64(1)))
            with torch.autocast(plan.device.type, torch.bfloat16, enabled=plan.autocast):
                student = self._embed(self.model, batch)
                with torch.no_grad():
                    references = {name: self._embed(m, batch) for name, m in self.method.references().items()}
                terms = self.method.objective(student, references, batch)
            terms.total.backward()  # type: ignore[no-untyped-call]
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

    def _embed(self, model: nn.Module, batch: Batch) -> Embeddings:
        """Embeddings, with the features of the layers that the method names."""
        layers: tuple[str, ...] = getattr(self.method, "layers", ())
        if not layers:
            return embed(model, batch)
        with capture(model, layers) as seen:
            return replace(embed(model, batch), features=seen)

    def _checked(self, terms: Mapping[str, Tensor], batch: Batch) -> dict[str, float]:
        values = {name: float(value) for name, value in terms.items()}
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        values["grad_norm"] = float(torch.nn.utils.get_total_norm(gradients))
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            shown = ", ".join(str(int(i)) for i in batch.sample_ids[:5])
            raise NonFiniteError(
                f"step {self.step + 1}: {', '.join(bad)} not finite (samples {shown}, ...); the teacher and the last "
                "checkpoint are unharmed; lower train.lr or check these samples"
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
        return dict(self.probe(self.step)) if self.probe else {}

    @property
    def _metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    def _log(self, values: Mapping[str, float]) -> None:
        if values:
            with self._metrics.open("a") as file:
                file.write(json.dumps({"step": self.step, **values}) + "\n")

    def _truncate_log(self, size: int) -> None:
        """Drop log lines of steps that a resumed run is going to take again."""
        with self._metrics.open("ab") as file:
            file.truncate(size)

    def save(self) -> None:
        """Write a checkpoint of this step."""
        method_tensors, method_plain = split_state(self.method.state_dict())
        parts = {
            "student": dict(self.model.state_dict()),
            "optimizer": optimizer_tensors(self.model, self.optimizer),
            "method": method_tensors,
        }
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
            StateError: if the checkpoint was made by another configuration, model or data set.
        """
        checkpoint, problems = newest_checkpoint(self.folder / "checkpoints")
        if checkpoint is None:
            return problems
        refuse_changes(checkpoint.state["fingerprint"], self.plan.fingerprint)
        self.model.load_state_dict(checkpoint.parts["student"])
        load_optimizer_tensors(self.model, self.optimizer, checkpoint.parts["optimizer"])
        self.method.load_state_dict(join_state(checkpoint.parts["method"], checkpoint.state["method"]))
        self.step = checkpoint.step
        self._truncate_log(checkpoint.state["log_bytes"])
        return problems


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
