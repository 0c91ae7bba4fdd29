"""The Trainer of transformers with the TRACER loss and a teacher, for `CLIPModel` and `SiglipModel`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tracerft.averaging import Teacher, WMATeacher
from tracerft.errors import ArgumentError, CheckpointError, DataError, MissingExtraError, StateError
from tracerft.integrations.teachers import TeacherFactory, build, check_clock, restore
from tracerft.losses import TracerLoss, pair_loss
from tracerft.models.hf import check_family
from tracerft.models.weights import load_tensors, save_tensors
from tracerft.types import Embeddings

try:
    import accelerate  # noqa: F401  # transformers asks for it only when a Trainer is built
    import transformers
    from transformers.trainer_utils import get_last_checkpoint
except ImportError as error:
    raise MissingExtraError(
        "TracerTrainer needs transformers and accelerate installed; pip install 'tracerft[hf]'"
    ) from error

TENSORS, STATE = "teacher.safetensors", "teacher.json"
CAPTION_IDS = "caption_ids"


class TracerTrainer(transformers.Trainer):
    """A `transformers.Trainer` whose loss is `TracerLoss` and which keeps a teacher.

    The teacher is built when training starts, moves once per optimiser step, and is written into each checkpoint as
    ``teacher.safetensors`` and ``teacher.json``; ``train(resume_from_checkpoint=...)`` restores it. Batches hold what
    the model takes (``pixel_values``, ``input_ids``, ...), and ``caption_ids`` ``(N,)`` if the criterion's targets
    need them. Logs gain the parts of the loss, each before its weight, of the main process.

    Args:
        model: `CLIPModel` or `SiglipModel`; with a bias the losses take their sigmoid form.
        args: `TrainingArguments`.
        teacher: called with the model and ``state.max_steps``; `WMATeacher`, or such as
            ``lambda model, steps: EMATeacher(model, 0.999)``.
        criterion: by default ``TracerLoss()``.
        **kwargs: of `transformers.Trainer`.

    Raises:
        ArgumentError: if the model is of another family, the loss is given twice, caption ids would be dropped, or the
            model would be cut into shards.

    Note:
        ``eval_loss`` is the contrastive term alone: it says the same before training, without a teacher, and under
        every weight. Negatives are those of one process.
    """

    model: Any  # CLIPModel, SiglipModel, or peft's wrapper of one

    def __init__(
        self,
        model: Any = None,
        args: transformers.TrainingArguments | None = None,
        *,
        teacher: TeacherFactory = WMATeacher,
        criterion: TracerLoss | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("compute_loss_func") is not None:
            raise ArgumentError("`compute_loss_func` would replace the TRACER loss; leave it out, or pass `criterion`")
        super().__init__(model, args, **kwargs)
        if not hasattr(self.model, "config"):
            raise ArgumentError(
                f"`model` of type {type(self.model).__name__} is not of transformers; pass a CLIPModel or SiglipModel "
                "(of an HFDualEncoder its .model)"
            )
        check_family(self.model.config)
        self.criterion = TracerLoss() if criterion is None else criterion
        if self.criterion.targets != "diagonal" and self.args.remove_unused_columns:
            raise ArgumentError(
                f"`criterion` has targets={self.criterion.targets!r}, which need caption_ids in each batch, but the "
                "model does not take them and they would be dropped; set remove_unused_columns=False"
            )
        self.can_return_loss = True  # so evaluation asks for a loss although there are no labels
        self.model_accepts_loss_kwargs = False  # our loss is a mean of its batch: accumulation must divide it
        self._factory = teacher
        self._teacher: Teacher | None = None
        self._saved: Mapping[str, Any] | None = None
        self._parts: dict[str, Tensor] = {}
        self._batches = 0
        self.add_callback(_Clock(self))

    @property
    def teacher(self) -> Teacher:
        """The averaged model; ``teacher.averaged.save_pretrained(folder)`` writes it.

        Raises:
            StateError: before training starts.
        """
        if self._teacher is None:
            raise StateError("there is no teacher before train(); call it first")
        return self._teacher

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As in `transformers.Trainer`; the teacher of the checkpoint is read before anything else.

        Raises:
            CheckpointError: if the checkpoint holds no teacher, or a damaged one.
            StateError: if it was saved with another length, kernel or model.
            ArgumentError: if FSDP, DeepSpeed or ``auto_find_batch_size`` is on.
        """
        _refuse(self)
        folder = resume_from_checkpoint or None
        if folder is True:
            folder = get_last_checkpoint(self.args.output_dir)  # type: ignore[no-untyped-call]
        self._saved = None if folder is None else read_teacher(Path(str(folder)))
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The TRACER loss while training, the contrastive term in evaluation."""
        caption_ids = inputs.get(CAPTION_IDS)
        inputs = {name: value for name, value in inputs.items() if name != CAPTION_IDS}
        outputs = model(**inputs)
        student = _embeddings(outputs, self.accelerator.unwrap_model(model))
        if model.training:
            with self.accelerator.autocast():
                reference = _embeddings(self.teacher(**inputs), self.teacher.averaged)
            terms = self.criterion(student, reference, caption_ids)
            self._batches += 1
            for name, part in terms.parts.items():  # tensors: a number would make the device wait
                self._parts[name] = self._parts[name] + part if name in self._parts else part
            loss = terms.total
        else:
            loss = pair_loss(student, self.criterion.targets, caption_ids)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As in `transformers.Trainer`, the parts' means since the last time beside the training loss."""
        if "loss" in logs and self._batches:
            logs = logs | {name: float(part) / self._batches for name, part in self._parts.items()}
            self._parts, self._batches = {}, 0
        super().log(logs, *args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in `transformers.Trainer`: the student; into a checkpoint also the teacher's state."""
        super().save_model(output_dir, _internal_call)
        # Here and not in `on_save`: the trainer's own state is written later, so a checkpoint that has it is whole.
        if _internal_call and output_dir is not None and self._teacher is not None and self.args.should_save:
            write_teacher(self._teacher, Path(output_dir))

    def begin(self, state: transformers.TrainerState) -> None:
        """Build the teacher of the model as it is now, and restore it if the run is resumed."""
        self._teacher = build(self._factory, self.model, state.max_steps)
        self._parts, self._batches = {}, 0
        if self._saved is not None:
            restore(self._teacher, self._saved, "the checkpoint")
            self._saved = None
        check_clock(self._teacher, state.global_step)


class _Clock(transformers.TrainerCallback):
    """Tells a `TracerTrainer` when training starts and when the optimiser has stepped."""

    def __init__(self, trainer: TracerTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.begin(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.teacher.update(self._trainer.model)


def write_teacher(teacher: Teacher, folder: Path) -> None:
    """Write a teacher's state into a folder, as safetensors and JSON."""
    state = dict(teacher.state_dict())
    plain = state.pop("_extra_state")
    save_tensors(folder / TENSORS, state)
    (folder / STATE).write_text(json.dumps(plain, indent=1, allow_nan=False) + "\n")


def read_teacher(folder: Path) -> dict[str, Any]:
    """The inverse of `write_teacher`, as a state dict.

    Raises:
        CheckpointError: if a file is missing or damaged.
    """
    for name in (TENSORS, STATE):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder}: no {name}, so no TracerTrainer wrote this checkpoint, or not all of it; resume from "
                "another one, or leave resume_from_checkpoint out to start anew"
            )
    try:
        return {**load_tensors(folder / TENSORS), "_extra_state": json.loads((folder / STATE).read_text())}
    except (DataError, OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: the teacher is damaged ({error}); resume from another checkpoint") from error


def _refuse(trainer: Any) -> None:
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ArgumentError(
            "`args` asks for FSDP or DeepSpeed, which cut the model into shards, but a teacher averages whole "
            "tensors; use DistributedDataParallel (torchrun) or one device"
        )
    if trainer.args.auto_find_batch_size:
        raise ArgumentError(
            "`args` has auto_find_batch_size=True, which starts again from what a failed attempt left, so the "
            "pretrained state is lost; set per_device_train_batch_size"
        )


def _embeddings(outputs: Any, model: Any) -> Embeddings:
    """What the losses read from `CLIPOutput` or `SiglipOutput`, whose rows have unit norm already."""
    return Embeddings(
        outputs.image_embeds, outputs.text_embeds, model.logit_scale.exp(), getattr(model, "logit_bias", None)
    )
