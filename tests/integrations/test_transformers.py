"""The Trainer of transformers with a teacher: loss, clock, average, checkpoints, evaluation."""

import importlib
import sys

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

import transformers

from tests.integrations.averages import assert_average, assert_same, snapshot
from tests.models.small import images, transformer
from tracerft import EMATeacher, TracerLoss
from tracerft.errors import ArgumentError, CheckpointError, MissingExtraError, StateError
from tracerft.integrations.transformers import TracerTrainer

# Ten pairs, two to a batch, two batches to a step: three steps an epoch, the last of one batch.
PAIRS, STEPS = 10, 6


class Pairs(list):
    """Seeded noise and token ids that end with the end token; remembers in which order it was read.

    The label is of no use to the loss, but many data sets have one, and it must not change how batches accumulate.
    """

    def __init__(self):
        tokens = torch.randint(4, 40, (PAIRS, 12), generator=torch.Generator().manual_seed(2))
        tokens[:, -1] = 1
        pairs = zip(images(PAIRS), tokens, strict=True)
        super().__init__({"pixel_values": image, "input_ids": text, "label": 1} for image, text in pairs)
        self.order = []

    def __getitem__(self, index):
        self.order.append(index)
        return super().__getitem__(index)


def stack(pairs):
    """A batch as the model takes it."""
    return {name: torch.stack([pair[name] for pair in pairs]) for name in ("pixel_values", "input_ids")}


def build(folder, kind="clip", model=None, teacher=None, criterion=None, **options):
    """A trainer with momentum, its model and the trajectory that it will take."""
    model = transformer(kind) if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    trajectory = [snapshot(model)]
    optimizer.register_step_post_hook(lambda *_: trajectory.append(snapshot(model)))
    options = {"num_train_epochs": 2, "gradient_accumulation_steps": 2, "save_strategy": "no"} | options
    args = transformers.TrainingArguments(
        folder, per_device_train_batch_size=2, per_device_eval_batch_size=2, lr_scheduler_type="constant",
        max_grad_norm=0, logging_steps=1, report_to="none", use_cpu=True, disable_tqdm=True, **options,
    )  # fmt: skip
    given = {} if teacher is None else {"teacher": teacher}
    trainer = TracerTrainer(
        model, args, criterion=criterion, train_dataset=Pairs(), eval_dataset=Pairs(), optimizers=(optimizer, None),
        **given,
    )  # fmt: skip
    return trainer, model, trajectory


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An unbroken run with a checkpoint at every step."""
    folder = tmp_path_factory.mktemp("whole")
    trainer, model, trajectory = build(folder, save_strategy="steps", save_steps=1)
    trainer.train()
    return trainer, model, trajectory, folder


def test_teacher_is_the_average_of_the_trajectory_and_counts_optimiser_steps(whole):
    """Ten batches, six steps, the pretrained state kept."""
    trainer, _, trajectory, _ = whole
    assert trainer.teacher.clock.total_steps == trainer.teacher.steps == STEPS == len(trajectory) - 1
    assert_average(trainer.teacher, trajectory)


def test_log_holds_the_parts_of_the_loss(whole):
    """They add up to the loss; at the first step, where teacher and student are equal, their values are known."""
    logs = [entry for entry in whole[0].state.log_history if "loss" in entry]
    assert len(logs) == STEPS
    for entry in logs:
        distilled = sum(entry[name] for name in ("fd", "crd", "icl", "cross_kd"))
        assert entry["loss"] == pytest.approx(entry["contrastive"] + 0.9 * distilled, rel=1e-5)
    first = logs[0]
    assert first["icl"] == pytest.approx(first["contrastive"], rel=1e-5)
    assert max(abs(first[name]) for name in ("fd", "crd", "cross_kd")) < 1e-5
    assert logs[3]["fd"] > 1e-6


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_with_weight_0_the_run_is_a_plain_loop(kind, tmp_path):
    """Expected: a loop written out here over transformers' own loss, so the teacher leaves the student alone."""
    trainer, model, _ = build(tmp_path, kind, criterion=TracerLoss(sd_weight=0))
    reference = transformer(kind)
    trainer.train()
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.02, momentum=0.9)
    order = trainer.train_dataset.order
    assert len(order) == 2 * PAIRS
    for epoch in (order[:PAIRS], order[PAIRS:]):
        for step in (epoch[:4], epoch[4:8], epoch[8:]):
            for at in range(0, len(step), 2):
                batch = stack([list.__getitem__(trainer.train_dataset, i) for i in step[at : at + 2]])
                (reference(**batch, return_loss=True).loss / (len(step) // 2)).backward()
            optimizer.step()
            optimizer.zero_grad()
    for name, tensor in reference.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=2e-6)
    assert trainer.teacher.steps == STEPS


@pytest.mark.parametrize("step", [2, 3])
def test_resumed_run_is_the_unbroken_one(whole, tmp_path, step):
    """Another start, then a checkpoint within or between epochs: student, teacher and its files end the same."""
    other = transformer("clip")
    with torch.no_grad():
        other.visual_projection.weight.add_(1)
    trainer, model, _ = build(tmp_path, model=other, save_strategy="steps", save_steps=3)
    trainer.train(resume_from_checkpoint=str(whole[3] / f"checkpoint-{step}"))
    assert_same(model, whole[1])
    assert_same(trainer.teacher, whole[0].teacher)
    for name in ("teacher.safetensors", "teacher.json"):
        assert (tmp_path / "checkpoint-6" / name).read_bytes() == (whole[3] / "checkpoint-6" / name).read_bytes()


def test_checkpoint_without_a_whole_teacher_is_refused(whole, tmp_path):
    """A missing, damaged or foreign teacher is one line, before anything is trained."""
    trainer, _, _ = build(tmp_path)
    folder = tmp_path / "checkpoint-3"
    folder.mkdir()
    for name in ("trainer_state.json", "model.safetensors", "config.json", "optimizer.pt", "scheduler.pt"):
        (folder / name).write_bytes((whole[3] / "checkpoint-3" / name).read_bytes())
    for name in ("teacher.safetensors", "teacher.json"):
        with pytest.raises(CheckpointError, match=f"no {name}") as caught:
            trainer.train(resume_from_checkpoint=True)
        assert "\n" not in str(caught.value)
        (folder / name).write_bytes((whole[3] / "checkpoint-3" / name).read_bytes()[:50])
    with pytest.raises(CheckpointError, match="damaged"):
        trainer.train(resume_from_checkpoint=str(folder))
    ema = {"teacher": lambda model, steps: EMATeacher(model, 0.9)}
    for options, says in (({"num_train_epochs": 3}, "total_steps=6 but this one has total_steps=9"), (ema, "kernel")):
        with pytest.raises(StateError, match=says):
            build(tmp_path, **options)[0].train(resume_from_checkpoint=str(whole[3] / "checkpoint-3"))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_evaluation_is_the_contrastive_loss(kind, tmp_path):
    """Also without a teacher; expected: the mean of transformers' own loss over the batches."""
    trainer, model, _ = build(tmp_path, kind)
    found = trainer.evaluate()["eval_loss"]
    pairs = Pairs()
    with torch.no_grad():
        losses = [model(**stack(pairs[i : i + 2]), return_loss=True).loss for i in range(0, PAIRS, 2)]
    assert found == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)


def test_siglip_takes_the_sigmoid_form(tmp_path):
    """Its bias reaches student and teacher; the first step's contrastive part is transformers' own loss."""
    trainer, _, trajectory = build(tmp_path, "siglip", max_steps=1, gradient_accumulation_steps=1)
    model_before = transformer("siglip")
    trainer.train()
    batch = stack([list.__getitem__(trainer.train_dataset, i) for i in trainer.train_dataset.order[:2]])
    with torch.no_grad():
        expected = float(model_before(**batch, return_loss=True).loss)
    entry = trainer.state.log_history[0]
    assert entry["contrastive"] == pytest.approx(expected, rel=1e-5)
    assert entry["loss"] == pytest.approx(expected + 0.9 * (entry["icl"] + entry["crd"] + entry["cross_kd"]), rel=1e-4)
    assert entry["icl"] == pytest.approx(expected, rel=1e-5)
    assert trainer.teacher.clock.total_steps == 1 == len(trajectory) - 1


def test_teacher_runs_its_own_weights_under_mixed_precision(tmp_path):
    """Mixed precision replaces the student's forward; the teacher's copy of it must not lead back to the student."""
    trainer, model, _ = build(tmp_path, max_steps=1, bf16=True)
    trainer.train()
    batch = stack([trainer.train_dataset[i] for i in range(4)])
    before = trainer.teacher(**batch).image_embeds
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(trainer.teacher(**batch).image_embeds, before)
    assert {p.dtype for p in trainer.teacher.parameters()} == {torch.float32}


def test_caption_ids_reach_the_loss(tmp_path):
    """With all captions equal, masked targets leave the contrastive loss nothing to tell apart."""
    trainer, _, _ = build(
        tmp_path, criterion=TracerLoss(sd_weight=0, targets="masked"), max_steps=1, remove_unused_columns=False
    )
    for pair in list.__iter__(trainer.train_dataset):
        pair["caption_ids"] = torch.tensor(7)
    trainer.train()
    assert trainer.state.log_history[0]["contrastive"] == pytest.approx(0, abs=1e-6)


def test_what_cannot_be_trained_is_refused(tmp_path):
    """One line each."""
    bert = transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    for options, says in (
        ({"model": transformers.BertModel(bert)}, "'bert'"),
        ({"model": torch.nn.Linear(1, 1)}, "not of transformers"),
        ({"criterion": TracerLoss(targets="masked")}, "remove_unused_columns=False"),
    ):
        with pytest.raises(ArgumentError, match=says):
            build(tmp_path, **options)
    with pytest.raises(ArgumentError, match="compute_loss_func"):
        TracerTrainer(transformer("clip"), compute_loss_func=len)
    trainer, _, _ = build(tmp_path, auto_find_batch_size=True)
    with pytest.raises(StateError, match=r"before train\(\)"):
        _ = trainer.teacher
    with pytest.raises(ArgumentError, match="auto_find_batch_size"):
        trainer.train()
    trainer.is_fsdp_enabled = True  # what Trainer sets when several processes shard
    with pytest.raises(ArgumentError, match="shards"):
        trainer.train()


@pytest.mark.parametrize("library", ["transformers", "accelerate"])
def test_missing_library_names_the_extra(monkeypatch, library):
    """One line, at import."""
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, "tracerft.integrations.transformers")
    with pytest.raises(MissingExtraError, match=r"tracerft\[hf\]"):
        importlib.import_module("tracerft.integrations.transformers")
