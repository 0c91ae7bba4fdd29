"""A step in chunks against the plain step: the same gradient, the same state, one chunk of activations."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.conftest import SMALL
from tests.methods.steps import FixedBatch, plan, random_batch
from tests.methods.test_contract import TRAINED, build, student
from tests.runs import Cut, contents, cut_at, finetune
from tracerft import running
from tracerft.errors import ArgumentError, StateError
from tracerft.models.encoder import embed, freeze
from tracerft.models.tiny import TinyDualEncoder
from tracerft.training.trainer import Trainer

DOUBLE = [name for name in TRAINED if not name.startswith("arf")]  # ARF's anchors bring float32 images


def batch_of(dtype):
    """Eight labelled pairs; the last carries the caption of the first, so equal captions fall in two chunks."""
    batch = random_batch()
    batch.tokens[-1], batch.caption_ids[-1] = batch.tokens[0], batch.caption_ids[0]
    return replace(batch, images=batch.images.to(dtype))


def step(method, model, folder, chunks, *, steps=3, dtype=torch.float64, **changes):
    """Gradients of the last of three steps, the student, and the last line of the log."""
    folder.mkdir()
    made = plan(steps, accumulate=chunks, **changes)
    trainer = Trainer(model.to(dtype), method, FixedBatch(batch_of(dtype)), made, folder)
    caught = {}

    def keep(*_):
        caught.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})

    trainer.optimizer.register_step_pre_hook(keep)
    trainer.run()
    return caught, dict(model.state_dict()), json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])


def both(name, folder, chunks, loss=None, prepare=lambda model: None, **changes):
    """The plain run and the one in chunks, of the same start."""
    runs = []
    for number in (1, chunks):
        model = student(name)
        prepare(model)
        runs.append(step(build(name, loss=loss), model, folder / str(number), number, **changes))
    return runs


@pytest.mark.parametrize("name", DOUBLE)
def test_chunks_give_the_step_of_the_whole_batch(name, tmp_path):
    """Gradients (scale and head included), weights and logged terms of every method after three steps, float64."""
    (grads, state, log), (by_chunk, chunked, line) = both(name, tmp_path, 4, {"targets": "multi_positive"})
    assert grads.keys() == by_chunk.keys()
    torch.testing.assert_close(by_chunk, grads, rtol=1e-10, atol=1e-10)
    # Adam divides by its own root: where the true gradient is 0 (a key's bias), rounding reaches the weights.
    torch.testing.assert_close(chunked, state, rtol=1e-8, atol=1e-8)
    assert line == pytest.approx(log, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("name", ["flyp", "tracer", "ce_ft", "ldifs", "arf"])
def test_chunks_of_uneven_size_in_float32(name, tmp_path):
    """Eight pairs in three chunks, to rounding; ARF runs the student inside its objective too."""
    (grads, *_), (by_chunk, *_) = both(name, tmp_path, 3, dtype=torch.float32, steps=2)
    torch.testing.assert_close(by_chunk, grads, rtol=1e-4, atol=1e-5)


def test_the_comparison_can_fail(tmp_path):
    """The control: mean gradients of chunks that see their own negatives only are another direction."""
    batch, model, method = batch_of(torch.float64), student("flyp").double(), build("flyp")
    (whole, *_), _ = both("flyp", tmp_path, 4, steps=1)
    for rows in (slice(0, 4), slice(4, 8)):
        fields = ("images", "tokens", "caption_ids", "sample_ids", "labels")
        piece = replace(batch, **{name: getattr(batch, name)[rows] for name in fields})
        (method.objective(embed(model, piece), {}, piece).total / 2).backward()
    mine, theirs = (
        torch.cat([g[n].flatten() for n in whole]) for g in (whole, {n: p.grad for n, p in model.named_parameters()})
    )
    assert nn.functional.cosine_similarity(mine, theirs, dim=0) < 0.995


def test_scale_and_bias_of_a_sigmoid_model_get_their_gradient_once(tmp_path):
    """Both are the same in every chunk; four times the gradient would be the mistake."""

    def add_bias(model):
        model.logit_bias = nn.Parameter(torch.tensor(-2.0))

    (grads, *_), (by_chunk, *_) = both("flyp", tmp_path, 4, prepare=add_bias)
    assert by_chunk["logit_bias"].abs() > 1e-4
    torch.testing.assert_close(by_chunk, grads, rtol=1e-10, atol=1e-10)


def test_a_frozen_tower_gets_no_gradient(tmp_path):
    """Text tower and scale frozen: what trains has the plain gradient, the rest none."""
    (grads, *_), (by_chunk, *_) = both("tracer", tmp_path, 2, prepare=lambda model: freeze(model, "text"))
    assert grads.keys() == by_chunk.keys()
    assert all(name.startswith("visual") for name in grads)
    torch.testing.assert_close(by_chunk, grads, rtol=1e-10, atol=1e-10)


class Counting(TinyDualEncoder):
    """Dropout behind the image tower; keeps its mode, whether a graph is made, and what came out."""

    def __init__(self):
        super().__init__(SMALL)
        self.calls = []

    def encode_image(self, image, normalize=False):
        """Some coordinates dropped in training mode."""
        out = nn.functional.dropout(super().encode_image(image), 0.3, self.training)
        self.calls.append((self.training, torch.is_grad_enabled(), out.detach().clone()))
        return nn.functional.normalize(out, dim=-1) if normalize else out


def test_a_graph_holds_one_chunk_and_references_are_embedded_once(tmp_path):
    """Eight pairs in four chunks: 4 + 4 student passes of 2 pairs, 4 of the teacher, which sees no dropout."""
    model, method = Counting(), build("tracer")
    step(method, model, tmp_path / "run", 4, steps=1, dtype=torch.float32)
    assert [(training, graph, len(out)) for training, graph, out in model.calls] == [
        *[(True, False, 2)] * 4,
        *[(True, True, 2)] * 4,
    ]
    assert [(training, graph, len(out)) for training, graph, out in method.teacher.averaged.calls] == [
        (False, False, 2)
    ] * 4


def test_dropout_is_the_same_in_both_passes(tmp_path):
    """Bitwise, while chunks and steps differ; the global generator is left alone."""
    torch.manual_seed(7)
    before = torch.get_rng_state()
    model = Counting()
    step(build("flyp"), model, tmp_path / "run", 2, steps=2, dtype=torch.float32, lr=1e-12)
    assert torch.equal(torch.get_rng_state(), before)
    first, second = model.calls[:4], model.calls[4:]
    for outs in ([out for *_, out in calls] for calls in (first, second)):
        assert torch.equal(outs[0], outs[2])
        assert torch.equal(outs[1], outs[3])
        assert not torch.equal(outs[0] == 0, outs[1] == 0)
    assert not torch.equal(first[0][2] == 0, second[0][2] == 0)


def test_bf16_autocast_reaches_every_parameter(tmp_path):
    """Weights cast in the pass without a graph must not be those of the pass with one."""
    (grads, *_), (by_chunk, *_) = both("tracer", tmp_path, 2, dtype=torch.float32, steps=2, autocast=True)
    assert grads.keys() == by_chunk.keys()
    assert all(gradient.abs().sum() > 0 for name, gradient in by_chunk.items() if grads[name].abs().sum() > 0)
    mine, theirs = (torch.cat([g.flatten() for g in found.values()]) for found in (by_chunk, grads))
    assert nn.functional.cosine_similarity(mine, theirs, dim=0) > 0.99


def with_batchnorm(model):
    """BatchNorm at the end of the image tower."""
    model.visual.norm = nn.BatchNorm1d(SMALL.width)


def test_batchnorm_that_trains_is_refused_and_a_frozen_one_is_not(tmp_path):
    """Its statistics would be those of a chunk; one line with the cure."""
    with pytest.raises(
        ArgumentError, match=r"`train.accumulate` must be 1 .* visual.norm .*freeze the tower"
    ) as caught:
        both("flyp", tmp_path, 2, prepare=with_batchnorm)
    assert "\n" not in str(caught.value)

    def frozen(model):
        with_batchnorm(model)
        freeze(model, "image")

    (tmp_path / "frozen").mkdir()
    (grads, *_), (by_chunk, *_) = both("flyp", tmp_path / "frozen", 2, prepare=frozen)
    torch.testing.assert_close(by_chunk, grads, rtol=1e-10, atol=1e-10)


def test_a_run_in_chunks_resumes_to_the_same_bytes(monkeypatch, small_model, digits_folder, tmp_path):
    """Cut after three of six steps; another number of chunks is another run."""
    monkeypatch.setattr(running, "write_run_report", lambda folder: (folder / "report.html").write_text(""))
    train = {"accumulate": 3}
    finetune(small_model, digits_folder, tmp_path / "whole", train=train)
    with pytest.raises(Cut):
        finetune(small_model, digits_folder, tmp_path / "cut", train=train, progress=cut_at(3))
    with pytest.raises(StateError, match=r"train\.accumulate: 3 then, 2 now"):
        finetune(small_model, digits_folder, tmp_path / "cut", train={"accumulate": 2}, resume=True)
    finetune(small_model, digits_folder, tmp_path / "cut", train=train, resume=True)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
