"""Everything a run can be told, as plain frozen dataclasses; `api.py` turns them into objects.

The command's options, `config.yaml` and the keyword arguments of `finetune` are all read from here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from tracerft.config_types import wrong_types
from tracerft.data.strict_yaml import read_strict_yaml
from tracerft.data.text import shown
from tracerft.errors import ArgumentError, DataError, did_you_mean

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class DigitsConfig:
    """What to do with digits (only read when the data are digits).

    Args:
        task: grey, coloured (a red digit / a blue digit) or coloured-digits (ten captions).
        agreement: share of training digits whose colour is their group's, 0 to 1.
        start: first training digit to use.
        count: number of training digits to use, held-out ones included; all by default.
        without_embedded: leave out every digit that is also among the embedded ones (by its pixels); this is
            how the packaged model `tiny` was pretrained.
    """

    task: str = "coloured"
    agreement: float = 0.95
    start: int = 0
    count: int | None = None
    without_embedded: bool = False


@dataclass(frozen=True, kw_only=True)
class ColumnsConfig:
    """Columns of a table of images (keys, in JSON lines); obvious names are found by themselves.

    Args:
        image: path of the image; a pattern such as noto/{codepoint}.png is filled from other columns.
        caption: its text.
        label: its class.
    """

    image: str | None = None
    caption: str | None = None
    label: str | None = None

    def named(self) -> dict[str, str]:
        """Those that were given."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters instead of training the weights themselves.

    Args:
        rank: of the adapters; 0 trains the weights.
        alpha: the adapters are scaled by alpha / rank.
        preset: attention-mlp, attention or mlp.
    """

    rank: int = 0
    alpha: float = 16.0
    preset: str = "attention-mlp"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Length, rates and intervals.

    Args:
        epochs: passes over the training data.
        steps: optimiser steps; overrides epochs.
        batch_size: pairs in a batch, at least 2.
        accumulate: chunks in which a batch is embedded, for memory: the gradient stays the whole batch's, all its
            negatives included, for one more forward pass.
        shard: on several ranks, each holds a part of the weights, gradients, moments and teacher, not a copy.
        replicas: with shard, copies that the ranks hold together, each split over neighbours, such as a node (HSDP).
        lr: peak learning rate of AdamW.
        weight_decay: of AdamW, on everything that trains.
        warmup_steps: linear warm-up; by default 500, or a tenth of the run if that is less.
        seed: of data order, augmentation and initial weights.
        device: auto, cpu, cuda, mps.
        precision: fp32, or bf16 for bf16 autocast.
        compile: compile the towers by torch.compile: the same steps up to rounding, after a minute or so.
        log_every: steps between lines of metrics.jsonl.
        checkpoint_every: steps between checkpoints; 0 keeps only the last step's.
        probe_every: steps between measurements of the teacher-student gap; 0 is never.
    """

    epochs: int = 10
    steps: int | None = None
    batch_size: int = 512
    accumulate: int = 1
    shard: bool = False
    replicas: int = 1
    lr: float = 1e-5
    weight_decay: float = 0.1
    warmup_steps: int | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "fp32"
    compile: bool = False
    log_every: int = 10
    checkpoint_every: int = 500
    probe_every: int = 0


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """The averaged model.

    Args:
        a: first parameter of the Beta(a, b) kernel of tracer.
        b: second parameter.
        momentum: of the EMA teacher of sd_ema and of the average of ema, per update, 0 to 1.
        update_every: optimiser steps between updates.
        weighting: point (the paper) or mass: how a state counts when update_every is above 1.
        alpha: of wise_ft, share of the finetuned weights, 0 to 1.
        carot_every: of carot, steps between updates of its teacher; by default a fiftieth of the run, as published.
        swa_start: of swa, share of the run after which the average begins, 0 to 1.
        window: of lawa, how many of ten evenly spaced snapshots are averaged, the last ones.
    """

    a: float = 0.5
    b: float = 0.5
    momentum: float = 0.999
    update_every: int = 1
    weighting: str = "point"
    alpha: float = 0.5
    carot_every: int | None = None
    swa_start: float = 0.75
    window: int = 5


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Terms and their weights.

    Args:
        sd_weight: weight of all distillation terms together (lambda_SD).
        fd: weight of feature distillation within them.
        crd: weight of contrastive relational distillation.
        icl: weight of interactive contrastive learning.
        cross_kd: weight of cross knowledge distillation.
        targets: diagonal, multi_positive or masked: what equal captions in a batch count as; auto is
            multi_positive where captions repeat within a batch, else diagonal.
        cross_frobenius: weight of the norm of the product of both projections.
        l2_sp: lambda of l2_sp and contrastive_l2_sp.
        logit_kd: of sd_logit, weight of the divergence from the pretrained logits.
        temperature: of sd_logit, divides both logits.
        feature_kd: of sd_feat, lambda of half the squared distance of image embeddings.
        context: of car_ft, weight of the divergence between distributions over templates.
        energy: of lipsum_ft, weight of the gap between energies on random texts.
        ldifs: of ldifs, weight of the distance of inner features.
        carot_sd: of carot, weight of distillation from its teacher.
        orthogonality: of carot, weight of the distance of the image projection from orthogonality.
        orthogonality_power: of carot, 1 (its code) or 2 (its paper).
        carot_cross: of carot, weight of the norm of the product of both projections.
        ftp_kappa: of ftp, how much of a gradient that tightens the projection counts, 0 to 1; 1 holds most.
        arf_captions: of arf, weight of the loss on captions of the images.
        arf_retrieved: of arf, weight of the loss on retrieved pairs.
    """

    sd_weight: float = 0.9
    fd: float = 1.0
    crd: float = 1.0
    icl: float = 1.0
    cross_kd: float = 1.0
    targets: str = "auto"
    cross_frobenius: float = 0.0
    l2_sp: float = 0.01
    logit_kd: float = 1.0
    temperature: float = 1.0
    feature_kd: float = 1.0
    context: float = 1.0
    energy: float = 1.0
    ldifs: float = 10.0
    carot_sd: float = 1.5
    orthogonality: float = 0.2
    orthogonality_power: int = 1
    carot_cross: float = 0.05
    ftp_kappa: float = 1.0
    arf_captions: float = 1.0
    arf_retrieved: float = 1.0


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """What a run must not forget; max_drop or rate turns it on.

    Args:
        suite: a YAML whose shifts are guarded; without it, agreement with the pretrained model on held-out images and
            the similarities of class captions, which need no labels.
        max_drop: points (hundredths) that each guard set may lose against the pretrained model; proposes the most
            accurate point of the measured front that keeps to it.
        rate: points of the finetuned task that one point of the guard sets' mean is worth; proposes the point with the
            largest held-out accuracy + rate x mean, with max_drop of those that keep to it.
        every: steps between measurements; by default a tenth of the run.
        samples: most images of each guard set that are looked at, the same ones in every run.
    """

    suite: str | None = None
    max_drop: float | None = None
    rate: float | None = None
    every: int | None = None
    samples: int = 512


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """One finetuning run.

    Args:
        model: open_clip:ARCH/PRETRAINED, open_clip:local-dir:FOLDER, hf:NAME_OR_FOLDER, mini:lite0-minilm,
            tiny, or a model or run folder.
        data: class folders, a folder or table of images with captions, a tar or folder of tars, a saved
            Hugging Face data set, or digits.
        out: folder to make for the run.
        method: a name from `tracerft methods`.
        freeze: none, text (all but the image tower) or image.
        suite: a YAML of an ID set and shifts, or one data set, to evaluate on; by default what is held out.
        templates: of captions made from class names: openai_imagenet, simple, a file, or a sentence with {}.
        classes: file of class names, one a line; by default the folders' or the table's own.
        hold_out: share of the training data kept out, for choosing between settings and, without a suite, to
            evaluate on.
        broken: error, or skip: what an image does that cannot be decoded.
        augment: random crops of training images.
        pool: of arf: image-caption pairs like those of the pretraining, to retrieve from; any data set with captions.
        probe: of linear_probe and lp_ft: sgd from the zero-shot head, or lbfgs over strengths of regularisation.
        log: trackers to follow the run: tensorboard, wandb, mlflow, trackio, or several with commas.
        examples: images of each split that the report shows of what was forgotten, and as many of what was learned;
            0 keeps none in the run's folder.
        columns: of a table.
        lora: low-rank adapters.
        train: length, rates and intervals.
        teacher: the averaged model.
        loss: terms and their weights.
        digits: how digits are shown and named.
        guard: against forgetting.
    """

    model: str
    data: str
    out: str
    method: str = "tracer"
    freeze: str = "none"
    suite: str | None = None
    templates: str = "simple"
    classes: str | None = None
    hold_out: float = 0.1
    broken: str = "error"
    augment: bool = True
    pool: str | None = None
    probe: str = "sgd"
    log: str | None = None
    examples: int = 6
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    digits: DigitsConfig = field(default_factory=DigitsConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)


GROUPS: dict[str, type] = {
    "columns": ColumnsConfig,
    "lora": LoraConfig,
    "train": TrainConfig,
    "teacher": TeacherConfig,
    "loss": LossConfig,
    "digits": DigitsConfig,
    "guard": GuardConfig,
}


def group(kind: type[T], value: T | Mapping[str, Any] | None, name: str) -> T:
    """A group of options from a mapping; the dataclass itself passes through, ``None`` gives the defaults.

    Raises:
        ArgumentError: for an option that does not exist.
    """
    if value is not None and not isinstance(value, Mapping):
        return value
    names = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    for key in value or {}:
        if key not in names:
            raise ArgumentError(f"unknown option `{name}.{key}`{did_you_mean(key, names)}")
    return kind(**(value or {}))


def read_config(path: Path) -> FinetuneConfig:
    """Read the configuration that a run wrote.

    Raises:
        DataError: if it is not one.
    """
    try:
        raw = read_strict_yaml(path)
        raw |= {name: group(kind, raw.get(name), name) for name, kind in GROUPS.items()}
        config = FinetuneConfig(**raw)
        if wrong := wrong_types(config):
            raise TypeError("; ".join(wrong))
        return config
    except (TypeError, AttributeError, ValueError) as error:  # ValueError: also what is no YAML, or an ArgumentError
        reason = shown(" ".join(str(error).split()), 400)
        raise DataError(f"{path}: not the configuration of a run ({reason}); was it edited by hand?") from error
