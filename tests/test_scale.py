"""docs/scale.md says what its command computes, and the command computes what runs and operations here count."""

import json
import runpy
from pathlib import Path

from tests.losses.pairs import random_pairs
from tests.methods.test_contract import build, train
from tests.products import Products
from tracerft.losses import TracerLoss

ROOT = Path(__file__).parents[1]
SCALE = runpy.run_path(str(ROOT / "benchmarks" / "scale.py"))
FILE = ROOT / "docs" / "results" / "benchmarks" / "scale.json"


def test_the_file_and_the_tables_of_the_manual_are_what_the_command_writes(monkeypatch, tmp_path):
    """With its defaults; every table stands in the manual as it is."""
    out = tmp_path / "made" / "scale.json"
    monkeypatch.setattr("sys.argv", ["scale.py", "--out", str(out)])
    runpy.run_path(str(ROOT / "benchmarks" / "scale.py"), run_name="__main__")
    assert out.read_text() == FILE.read_text()
    manual = (ROOT / "docs" / "scale.md").read_text()
    for name, table in SCALE["tables"](json.loads(FILE.read_text())).items():
        assert f"<!-- {name}: from docs/results/benchmarks/scale.json -->\n\n{table}\n" in manual, name


def test_operations_of_the_loss_are_those_of_the_products_it_makes():
    """Products of all five terms with their gradients, whole tiles and a last one that is short."""
    student, teacher = (random_pairs(seed, num=20, width=6) for seed in (0, 1))
    with Products() as counted:
        TracerLoss(tile=8)(student, teacher).total.backward()
    assert counted.operations == SCALE["loss_operations"](20, 6)


def test_memory_of_the_loss_is_what_lives_at_once(monkeypatch):
    """Embeddings and gradients of 64 rows; beyond them no more than the blocks of a tile and what lies beside."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from memory import peak_mib

    num, width, tile = 64, 512, 2
    embeddings = 4 * num * width * 4  # there before the loss
    made = [random_pairs(seed, num=num, width=width).image.float() for seed in range(4)]
    student = (made[0].detach().requires_grad_(), made[1].detach().requires_grad_(), made[0].new_tensor(9.0))
    counted = peak_mib(lambda: TracerLoss(tile=tile)(student, (made[2], made[3], student[2])).total.backward())
    beyond = embeddings + counted * 2**20 - SCALE["loss_bytes"](num, width)
    assert 0 <= beyond < 16 * tile * (num + width) * 4


def test_a_checkpoint_has_the_bytes_of_the_formula(tmp_path):
    """Weights, moments and teacher of a run; a step count for each parameter, names and plain values come on top."""
    trainer = train(build("tracer"), tmp_path, steps=1)
    parameters = list(trainer.model.parameters())
    trainer.save()
    (folder,) = (tmp_path / "checkpoints").iterdir()
    data = 0
    for part in folder.glob("*.safetensors"):
        raw = part.read_bytes()
        data += len(raw) - 8 - int.from_bytes(raw[:8], "little")  # behind safetensors' header
    expected = SCALE["checkpoint_bytes"](sum(p.numel() for p in parameters)) + 4 * len(parameters)
    assert data == expected
