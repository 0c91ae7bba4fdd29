"""What every method of the METHODS table must do; a new one is picked up by itself."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.conftest import SMALL
from tests.methods.steps import CAPTIONS, FixedBatch, plan, random_batch
from tracerft.config import FinetuneConfig, LossConfig, TeacherConfig
from tracerft.methods import METHODS
from tracerft.methods.classifier import CrossEntropy
from tracerft.models.encoder import embed, freeze
from tracerft.models.features import capture
from tracerft.models.head import attach_head
from tracerft.models.tiny import TinyDualEncoder, tokenize
from tracerft.preparing import ingredients
from tracerft.training.checkpoint import join_state, split_state
from tracerft.training.optim import optimizer_tensors
from tracerft.training.trainer import Trainer

STEPS = 20
PROMPTS = tuple((f"a {c}", f"the {c}") for c in CAPTIONS)
RUNS = [name for name, info in METHODS.items() if info.build is not None]
TRAINED = [name for name in RUNS if METHODS[name].trains]


def tokens(captions):
    """Of the small model."""
    return tokenize(captions, SMALL.context)


class Captions:
    """Anchors for ARF: each sample's caption, and a pool of one batch."""

    has_captions = has_pool = True

    def search(self, embed):
        """The pool is embedded once."""
        assert embed([random_batch().images]).shape == (8, SMALL.embed_dim)

    def captions(self, sample_ids, step):
        """A caption for each."""
        return tokens([f"image {i}" for i in sample_ids.tolist()]), sample_ids

    def retrieved(self, sample_ids, step):
        """The same pairs for all."""
        return random_batch()


def examples(model):
    """Unit-norm features and labels, two of each class."""
    generator = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(16, SMALL.embed_dim, generator=generator), dim=1)
    return features, torch.arange(16) % 8


def build(name, loss=None, teacher=None):
    """A named method with all that any of them needs."""
    groups = {"loss": LossConfig(**{"targets": "diagonal"} | (loss or {})), "teacher": TeacherConfig(**(teacher or {}))}
    made = ingredients(FinetuneConfig(model="", data="", out="", method=name, **groups))
    given = {"tokenize": tokens, "prompts": PROMPTS, "examples": examples, "anchors": Captions()}
    return METHODS[name].build(replace(made, **given))


def student(name, seed=1, frozen="none"):
    """A small model, prepared as a run prepares it."""
    model = TinyDualEncoder(SMALL, seed=seed)
    freeze(model, frozen)
    if METHODS[name].head:
        freeze(model, "text")
        attach_head(model, tokens, PROMPTS, folded=METHODS[name].folded)
    return model


def train(method, folder, *, frozen="none", steps=STEPS, size=8, **changes):
    """A trainer that has taken its steps on the fixed batch."""
    folder.mkdir(parents=True, exist_ok=True)
    model = student(method.name, frozen=frozen)
    trainer = Trainer(model, method, FixedBatch(random_batch(), size), plan(steps, **changes), folder)
    trainer.run()
    return trainer


def lines(folder):
    """The metric log."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", TRAINED)
def test_the_loss_is_finite_and_falls(name, tmp_path):
    """Twenty steps on one batch."""
    train(build(name), tmp_path)
    losses = [line["loss"] for line in lines(tmp_path)]
    assert len(losses) == STEPS
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("frozen", ["text", "image"])
@pytest.mark.parametrize("name", TRAINED)
def test_frozen_tensors_stay_to_the_bit_and_the_rest_moves(name, frozen, tmp_path):
    """`text` freezes all but the image tower, `image` the image tower."""
    trainer = train(build(name), tmp_path, frozen=frozen, steps=3)
    start = dict(student(name).named_parameters())
    for key, now in trainer.model.named_parameters():
        still = key.startswith("visual.") == (frozen == "image")
        if METHODS[name].head:  # the text tower never trains, the head always
            still = not key.startswith("class_head.") and (frozen == "image" or not key.startswith("visual."))
        assert now.requires_grad != still
        if still:
            assert torch.equal(now, start[key]), key
    assert any(not torch.equal(now, start[key]) for key, now in trainer.model.named_parameters())


@pytest.mark.parametrize("name", TRAINED)
def test_only_the_student_has_gradients_and_optimiser_slots(name, tmp_path):
    """References and evaluated models other than the student never train."""
    method = build(name)
    trainer = train(method, tmp_path, steps=2)
    others = [*method.references().values(), *(m for n, m in method.models().items() if n != "student")]
    trained = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in trainer.model.parameters() if p.requires_grad}
    for model in others:
        assert all(p.grad is None and id(p) not in trained for p in model.parameters())
    for model in method.references().values():
        assert not any(p.requires_grad for p in model.parameters())
        assert not model.training
    assert len(optimizer_tensors(trainer.model, trainer.optimizer)) == 3 * len(trained)


@pytest.mark.parametrize("name", TRAINED)
def test_state_goes_through_a_checkpoint_and_back(name, tmp_path):
    """Put into a fresh method that started from other weights, the state and the models are the same."""
    method, twin = build(name), build(name)
    train(method, tmp_path, steps=3)
    twin.start(student(name, seed=2), 3)
    tensors, plain = split_state(method.state_dict())
    twin.load_state_dict(join_state(tensors, json.loads(json.dumps(plain))))
    found, expected = split_state(twin.state_dict()), split_state(method.state_dict())
    assert found[1] == expected[1]
    assert found[0].keys() == expected[0].keys()
    assert all(torch.equal(found[0][n], expected[0][n]) for n in expected[0])


@pytest.mark.parametrize("name", TRAINED)
def test_every_method_evaluates_the_student_itself(name, tmp_path):
    """Whatever else it offers."""
    method = build(name)
    trainer = train(method, tmp_path, steps=1)
    assert method.name == name
    assert method.models()["student"] is trainer.model


@pytest.mark.parametrize("name", TRAINED)
def test_the_data_order_is_the_same_for_every_method(name, tmp_path):
    """A comparison of methods compares nothing else."""
    orders = []
    for one in (name, "flyp"):
        trainer = train(build(one), tmp_path / one, steps=6, size=20)
        orders.append([(epoch, ids.tolist()) for epoch, ids in trainer.source.asked])
    assert orders[0] == orders[1]


def same_steps(first, second, folder):
    """Both methods leave the same weights, optimiser and base losses, step for step."""
    runs = [train(first, folder / "first"), train(second, folder / "second")]
    a, b = (dict(r.model.state_dict()) | optimizer_tensors(r.model, r.optimizer) for r in runs)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[n], b[n]) for n in a)
    base = "cross_entropy" if METHODS[first.name].head else "contrastive"
    logs = [[(x[base], x["grad_norm"]) for x in lines(folder / n)] for n in ("first", "second")]
    assert logs[0] == logs[1]


NOTHING = [
    ("tracer", {"sd_weight": 0.0}),
    ("tracer", {"fd": 0.0, "crd": 0.0, "icl": 0.0, "cross_kd": 0.0}),
    ("sd_ema", {"sd_weight": 0.0}),
    ("sd_static", {"sd_weight": 0.0}),
    ("contrastive_l2_sp", {"l2_sp": 0.0}),
    ("sd_feat", {"feature_kd": 0.0}),
    ("carot", {"carot_sd": 0.0, "orthogonality": 0.0, "carot_cross": 0.0}),
    ("arf", {"arf_captions": 0.0, "arf_retrieved": 0.0}),
    ("wise_ft", {}),
    ("ema", {}),
    ("swa", {}),
    ("lawa", {}),
    ("l2_sp", {"l2_sp": 0.0}),
    ("sd_logit", {"logit_kd": 0.0}),
    ("car_ft", {"context": 0.0}),
    ("lipsum_ft", {"energy": 0.0}),
    ("ldifs", {"ldifs": 0.0}),
]


@pytest.mark.parametrize(("name", "loss"), NOTHING)
def test_a_coefficient_of_zero_is_the_base_run_step_for_step(name, loss, tmp_path):
    """Bitwise: direct contrastive finetuning, or cross-entropy with the same head; averages do not act at all."""
    base = CrossEntropy(name) if METHODS[name].head else build("flyp")
    same_steps(build(name, loss), base, tmp_path)


HELD = {
    "l2_sp": "l2_sp",
    "sd_logit": "logit_kd",
    "car_ft": "context",
    "lipsum_ft": "energy",
    "ldifs": "ldifs",
    "sd_feat": "feature_kd",
    "contrastive_l2_sp": "l2_sp",
}


@pytest.mark.parametrize("name", HELD)
def test_a_penalty_is_zero_with_zero_gradient_at_the_start(name):
    """And above 0 with one elsewhere."""
    found = {}
    for moved in (False, True):
        method, model = build(name, {HELD[name]: 3.0}), student(name)
        method.start(model, 20)
        if moved:
            with torch.no_grad():
                model.visual.proj += 0.1 * torch.randn(
                    model.visual.proj.shape, generator=torch.Generator().manual_seed(0)
                )
        found[moved] = _with_and_without(method, model, HELD[name])
    value, gradient = found[False]
    assert value == pytest.approx(0.0, abs=1e-6)
    assert gradient == pytest.approx(0.0, abs=1e-4)
    assert found[True][0] > 1e-4
    assert found[True][1] > 1e-4


def _with_and_without(method, model, term):
    """The term, and how much it changes the gradient of the image projection."""
    batch = random_batch()
    parts, gradients = {}, []
    for term_is_on in (True, False):
        model.zero_grad()
        if not term_is_on:
            method.weight = 0.0
        layers = getattr(method, "layers", ())
        embedded = [_embed(m, batch, layers) for m in (model, *method.references().values())]
        references = dict(zip(method.references(), embedded[1:], strict=True))
        if not term_is_on:
            references = {}
        terms = method.objective(embedded[0], references, batch)
        terms.total.backward()
        parts |= terms.parts
        penalty = method.penalty(model) if term_is_on else None
        if penalty is not None:
            penalty.total.backward()
            parts |= penalty.parts
        gradients.append(model.visual.proj.grad.clone())
    return float(parts[term]), (gradients[0] - gradients[1]).abs().max().item()


def _embed(model, batch, layers):
    with capture(model, layers) as seen:
        return replace(embed(model, batch), features=seen)


def test_a_coefficient_above_zero_is_not(tmp_path):
    """The control of the claim above."""
    with pytest.raises(AssertionError):
        same_steps(build("tracer", {"sd_weight": 0.1}), build("flyp"), tmp_path)


def test_an_ema_that_never_moves_is_the_static_teacher_step_for_step(tmp_path):
    """Momentum 1 keeps theta_0."""
    same_steps(build("sd_ema", teacher={"momentum": 1.0}), build("sd_static"), tmp_path)


def test_teachers_differ_by_their_rule_only(tmp_path):
    """After training: static is theta_0, the others have moved, each to another place, none to the student."""
    ends = {}
    for name in ("tracer", "sd_ema", "sd_static"):
        method = build(name, teacher={"momentum": 0.9} if name == "sd_ema" else None)
        trainer = train(method, tmp_path / name)
        ends[name] = method.models()["teacher"].visual.proj
        assert not torch.equal(ends[name], trainer.model.visual.proj)
    assert torch.equal(ends["sd_static"], TinyDualEncoder(SMALL, seed=1).visual.proj)
    assert not torch.equal(ends["tracer"], ends["sd_static"])
    assert not torch.equal(ends["tracer"], ends["sd_ema"])
