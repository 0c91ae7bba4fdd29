"""The similarity study in small: its rows are what the models in the run folders give."""

import json

import pytest
import torch

from tests.studies.small_world import in_process, small_world
from tracerft.api import make_ready
from tracerft.evaluation.similarity import linear_cka
from tracerft.models.weights import load_model
from tracerft.studies import similarity, variants


@pytest.fixture(scope="module")
def study(tmp_path_factory, small_model, digits_folder):
    """Two seeds, four steps."""
    out = tmp_path_factory.mktemp("similarity")
    world = small_world(out, small_model, digits_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(variants, "run_all", in_process)
        report = similarity.run(out / "similarity", world, seeds=2)
    return json.loads((report.parent / "study.json").read_text()), out, world


def test_every_pair_and_layer_has_a_row(study):
    """Three pairs, the tower's one block and the embedding; training moved something, and not everything."""
    found, out, _ = study
    pairs = ["pretrained-flyp", "pretrained-tracer", "flyp-tracer"]
    assert [(r["id"], r["strength"]) for r in found["rows"]] == [
        (pair, layer) for pair in pairs for layer in ("visual.blocks.0", "embedding")
    ]
    for row in found["rows"]:
        assert row["n"] == 2
        assert all(0 < value < 100 for key in ("cka", "svcca") for value in row[key]["values"])
    assert [f["file"] for f in found["figures"]] == ["figures/cka.svg", "figures/svcca.svg"]
    assert (out / "similarity" / "report.html").is_file()
    assert {p.name for p in (out / "runs").iterdir()} == {
        f"{name}-seed{seed}" for name in ("flyp-0", "tracer-0.9") for seed in (0, 1)
    }


def test_a_row_is_the_cka_of_the_saved_models_on_the_test_images(study):
    """Embeddings of the ID split of seed 1, from `encode_image` of start and student."""
    found, out, world = study
    row = next(r for r in found["rows"] if (r["id"], r["strength"]) == ("pretrained-tracer", "embedding"))
    ready = make_ready(variants.variant(world, "tracer", 1))
    images = torch.cat(list(ready.parts.suite.id.images.image_batches()))
    with torch.no_grad():
        towers = [load_model(f).model.eval() for f in (world.starts[1], out / "runs" / "tracer-0.9-seed1" / "student")]
        start, student = (tower.encode_image(images) for tower in towers)
    assert row["cka"]["values"][1] == pytest.approx(100 * linear_cka(start, student), rel=1e-5)
    assert found["settings"]["images"] == len(images) == 60


def test_the_claim_is_judged_on_means_over_layers(study):
    """Seed-paired, from the rows alone."""
    found, _, _ = study
    means = {}
    for pair in ("pretrained-flyp", "pretrained-tracer"):
        cells = [r["cka"]["mean"] for r in found["rows"] if r["id"] == pair]
        means[pair] = sum(cells) / len(cells)
    claim = found["claims"][0]
    assert claim["ours"].startswith(f"{means['pretrained-tracer']:.1f} against {means['pretrained-flyp']:.1f}")
