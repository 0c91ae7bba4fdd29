"""What each baseline must satisfy beyond the contract; the values are hand computations or plain loops."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.conftest import SMALL
from tests.methods.steps import random_batch
from tests.methods.test_contract import PROMPTS, Captions, build, examples, lines, student, tokens, train
from tracerft.data.anchors import Anchors
from tracerft.errors import ArgumentError, DataError
from tracerft.methods import METHODS
from tracerft.methods.arf import ARF
from tracerft.methods.classifier import CrossEntropy
from tracerft.methods.probe import Probed
from tracerft.models.encoder import embed
from tracerft.models.head import need_head
from tracerft.models.linear_probe import fit_probe
from tracerft.types import Batch


def test_the_gradient_of_the_head_is_residuals_times_embeddings():
    """(softmax - onehot)^T v / N, and its column sums for the bias (section 2a of the baselines)."""
    method, model, batch = build("ce_ft"), student("ce_ft"), random_batch()
    method.start(model, 3)
    with torch.no_grad():
        need_head(model).weight += 0.3
    embedded = embed(model, batch)
    terms = method.objective(embedded, {}, batch)
    terms.total.backward()
    head = need_head(model)
    image = embedded.image.detach().double()
    logits = image @ head.weight.detach().double().T + head.bias.detach().double()
    residual = (logits.softmax(1) - functional.one_hot(batch.labels, len(PROMPTS))) / len(batch)
    torch.testing.assert_close(head.weight.grad.double(), residual.T @ image, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(head.bias.grad.double(), residual.sum(0), rtol=1e-4, atol=1e-6)
    assert terms.total.item() == pytest.approx(functional.cross_entropy(logits, batch.labels).item(), rel=1e-5)


def test_labels_are_needed():
    """Captions alone do not train a classifier."""
    method, model, batch = build("ce_ft"), student("ce_ft"), random_batch()
    method.start(model, 3)
    with pytest.raises(ArgumentError, match=r"`batch\.labels`"):
        method.objective(embed(model, batch), {}, replace(batch, labels=None))


def test_a_head_is_needed():
    """The error says how to get one."""
    with pytest.raises(ArgumentError, match="attach_head"):
        build("ce_ft").start(student("flyp"), 3)


@pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
def test_lp_ft_starts_at_the_probe(solver):
    """Logits at step 0 are those of a classifier fitted on the same features (section 4)."""
    model = student("lp_ft")
    zero_shot = need_head(model).weight.detach().clone()
    Probed("lp_ft", examples=examples, solver=solver).start(model, 3)
    features, labels = examples(model)
    weight, bias = fit_probe(features, labels, len(PROMPTS), solver=solver, head=zero_shot, seed=0)
    expected = features.double() @ weight.double().T + bias.double()
    torch.testing.assert_close(need_head(model)(features).double(), expected, rtol=1e-5, atol=1e-5)
    assert not torch.equal(need_head(model).weight, zero_shot)


def test_a_probe_of_no_epochs_is_plain_finetuning(tmp_path, monkeypatch):
    """Step for step (section 4)."""
    from tracerft.methods import probe

    monkeypatch.setattr(probe, "fit_probe", lambda *a, **k: fit_probe(*a, **k, epochs=0))
    runs = [train(build("lp_ft"), tmp_path / "lp"), train(CrossEntropy("lp_ft"), tmp_path / "ce")]
    first, second = (r.model.state_dict() for r in runs)
    assert all(torch.equal(first[n], second[n]) for n in first)


def test_a_linear_probe_moves_the_head_alone(small_model, digits_folder, tmp_path):
    """The image tower stays to the bit, and the classifier learns what it is shown (section 3)."""
    from tests.runs import finetune
    from tracerft.models.weights import load_model

    run = finetune(small_model, digits_folder, tmp_path / "lp", method="linear_probe")
    assert run.record["steps"] == 0
    end, start = load_model(run.folder / "student").model, load_model(small_model).model.state_dict()
    for name, value in end.state_dict().items():
        if not name.startswith("class_head."):
            assert torch.equal(value, start[name]), name
    assert run.results["student"]["id"]["nll"] < run.results["pretrained"]["id"]["nll"]


def test_zero_shot_is_the_pretrained_model(small_model, digits_folder, tmp_path):
    """No step, no change."""
    from tests.runs import finetune

    run = finetune(small_model, digits_folder, tmp_path / "zs", method="zero_shot")
    assert run.results["student"] == run.results["pretrained"]
    assert run.record["steps"] == 0


@pytest.mark.parametrize("name", [n for n, info in METHODS.items() if info.how])
def test_a_method_without_a_run_says_how_it_is_made(name, small_model, digits_folder, tmp_path):
    """One line with the command."""
    from tests.runs import finetune

    with pytest.raises(ArgumentError, match=r"no run of its own; it is made by: tracerft (merge|evaluate)"):
        finetune(small_model, digits_folder, tmp_path / "run", method=name)
    assert not (tmp_path / "run").exists()


def test_lipsum_draws_other_texts_at_every_step_and_the_same_again():
    """Keyed by seed and step, so that a resumed run and another rank see the same."""
    made = []
    for _ in range(2):
        method, model = build("lipsum_ft"), student("lipsum_ft")
        method.start(model, 3)
        first = method._texts()
        method.after_step(model)
        made += [first, method._texts()]
    assert torch.equal(made[0], made[2])
    assert torch.equal(made[1], made[3])
    assert not torch.equal(made[0], made[1])


def test_the_contexts_of_car_ft_never_change(tmp_path):
    """Those of the pretrained text tower, one a template."""
    method = build("car_ft")
    trainer = train(method, tmp_path, steps=5)
    again = build("car_ft")
    again.start(student("car_ft"), 5)
    assert torch.equal(method._contexts, again._contexts)
    assert method._contexts.shape == (2, SMALL.embed_dim)
    assert trainer.step == 5


def test_the_average_is_a_model_beside_the_student(tmp_path):
    """SWA of all steps is the mean of the trajectory after its start (section 15)."""
    trajectory, method = [], build("swa", teacher={"swa_start": 0.0})
    keep = method.after_step
    method.after_step = lambda model: (trajectory.append(model.visual.proj.detach().double().clone()), keep(model))
    train(method, tmp_path, steps=4)
    expected = torch.stack(trajectory).mean(0)
    torch.testing.assert_close(method.models()["average"].visual.proj.double(), expected, rtol=1e-5, atol=1e-6)


def test_arf_with_the_prompts_as_captions_is_flyp_with_twice_the_loss(tmp_path):
    """And the pool off (section 11)."""

    class Same(Captions):
        def captions(self, sample_ids, step):
            batch = random_batch()
            return batch.tokens, batch.caption_ids

    method = ARF("arf", anchors=Same(), captions=1.0, retrieved=0.0)
    model, batch = student("arf"), random_batch()
    method.start(model, 3)
    terms = method.objective(embed(model, batch), {}, batch)
    assert terms.total.item() == pytest.approx(2 * terms.parts["contrastive"].item(), rel=1e-6)
    train(ARF("arf", anchors=Captions()), tmp_path)
    assert {"arf_captions", "arf_retrieved"} <= set(lines(tmp_path)[0])


def test_arf_without_a_piece_is_another_method():
    """`arf` refuses, `arf_lite` goes on with what there is, and refuses nothing at all."""

    class NoPool(Captions):
        has_pool = False

    with pytest.raises(ArgumentError, match="--pool DATA"):
        ARF("arf", anchors=NoPool()).start(student("arf"), 3)
    lite = ARF("arf_lite", anchors=NoPool())
    model, batch = student("arf"), random_batch()
    lite.start(model, 3)
    assert set(lite.objective(embed(model, batch), {}, batch).parts) == {"contrastive", "arf_captions"}
    with pytest.raises(ArgumentError, match="arf_lite"):
        ARF("arf_lite", anchors=None).start(student("arf"), 3)


class Pool:
    """Twelve pairs whose images are constant at i / 12."""

    def __len__(self):
        return 12

    def batch(self, ids, epoch):
        """In the order asked for."""
        images = torch.tensor(ids, dtype=torch.float32)[:, None, None, None].expand(-1, 3, 2, 2) / 12
        where = torch.as_tensor(np.asarray(ids))
        return Batch(images, where[:, None], None, where, where)


def test_retrieval_finds_the_nearest_and_draws_among_them():
    """Against brute force in float64."""

    def embedded(batches):
        means = torch.cat([b.mean((1, 2, 3)) for b in batches])
        return torch.stack([torch.cos(means), torch.sin(means)], 1)

    mine = torch.rand(7, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    made = Anchors([], tokens, lambda: mine.split(3), Pool(), neighbours=3)
    made.search(embedded)
    theirs = embedded([Pool().batch(range(12), 0).images]).double()
    similarity = embedded([mine]).double() @ theirs.T
    expected = similarity.argsort(1, descending=True)[:, :3]
    assert {tuple(sorted(r)) for r in made.nearest.tolist()} == {tuple(sorted(r)) for r in expected.tolist()}
    ids = torch.arange(7)
    drawn = made.retrieved(ids, 0).caption_ids
    assert set(drawn.tolist()) <= set(made.nearest.flatten().tolist())
    assert torch.equal(drawn, made.retrieved(ids, 0).caption_ids)
    assert len({tuple(made.retrieved(ids, step).caption_ids.tolist()) for step in range(8)}) > 1
    assert not made.has_captions


def test_a_caption_is_drawn_for_each_image_and_equal_ones_are_known():
    """Two images share a caption; one has two of its own."""
    made = Anchors([["a zero"], ["a zero"], ["a one", "the one"]], tokens, lambda: ())
    found, ids = made.captions(torch.tensor([0, 1, 2]), 0)
    assert ids[0] == ids[1] != ids[2]
    assert torch.equal(found[:2], tokens(["a zero", "a zero"]))
    assert {made.captions(torch.tensor([2]), step)[1].item() for step in range(20)} == {1, 2}


def test_no_anchors_at_all_are_told():
    """And a pool that is too small."""
    with pytest.raises(DataError, match="caption column"):
        Anchors([], tokens, lambda: ())
    with pytest.raises(DataError, match="at least 20"):
        Anchors([], tokens, lambda: (), Pool(), neighbours=20)
