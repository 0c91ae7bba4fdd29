"""Adapters under every method that trains: only they and the head move, and what comes out has none."""

import pytest
import torch

from tests.conftest import SMALL
from tests.methods.steps import FixedBatch, plan, random_batch
from tests.methods.test_contract import PROMPTS, TRAINED, build, lines, tokens
from tracerft.methods import METHODS
from tracerft.models.encoder import freeze
from tracerft.models.head import attach_head
from tracerft.models.lora import add_lora, has_lora
from tracerft.models.tiny import TinyDualEncoder
from tracerft.training.trainer import Trainer

pytest.importorskip("peft")


def student(name):
    """A small model with adapters in both towers, prepared as a run prepares it."""
    model = TinyDualEncoder(SMALL, seed=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)  # the first factors are drawn
        add_lora(model, rank=2)
    if METHODS[name].head:
        freeze(model, "text")
        attach_head(model, tokens, PROMPTS, folded=METHODS[name].folded)
    return model


@pytest.mark.parametrize("name", TRAINED)
def test_only_adapters_and_head_move(name, tmp_path):
    """Base weights stay to the bit, the loss falls, and merged models carry the original names."""
    model, method = student(name), build(name)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    trainer = Trainer(model, method, FixedBatch(random_batch()), plan(20, lr=2e-2), tmp_path)
    trainer.run()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert any(".lora_B" in n for n in moved)
    assert all(".lora_" in n or n.startswith("class_head.") for n in moved)
    losses = [line["loss"] for line in lines(tmp_path)]
    assert losses[-1] < losses[0]
    plain = set(TinyDualEncoder(SMALL).state_dict())
    for made in method.models().values():
        assert not has_lora(made)
        assert {n for n in made.state_dict() if not n.startswith("class_head.")} == plain


@pytest.mark.parametrize("name", ["l2_sp", "contrastive_l2_sp"])
def test_l2_sp_penalises_what_the_adapters_add_to_the_weights(name):
    """Half the squared norm of alpha/r B A, whatever the factors are: doubling B and halving A changes nothing."""
    model, method = student(name), build(name, {"l2_sp": 1.0})
    method.start(model, 3)
    assert method.penalty(model).total.item() == 0.0
    layers = [m for m in model.modules() if hasattr(m, "lora_A")]
    with torch.no_grad():
        for layer in layers:
            layer.lora_B["default"].weight.normal_(generator=torch.Generator().manual_seed(0))
    on = [m for m in layers if m.lora_B["default"].weight.requires_grad]
    expected = sum(m.get_delta_weight("default").double().square().sum() / 2 for m in on).item()
    assert method.penalty(model).total.item() == pytest.approx(expected, rel=1e-5)
    with torch.no_grad():
        for layer in layers:
            layer.lora_B["default"].weight.mul_(2)
            layer.lora_A["default"].weight.div_(2)
    assert method.penalty(model).total.item() == pytest.approx(expected, rel=1e-5)
