"""A trained class head: starts as the zero-shot classifier, travels with its model, and knows its classes."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.conftest import SMALL
from tests.models.small import folder as small_folder
from tracerft.averaging import interpolate
from tracerft.data.suite import Split
from tracerft.errors import ArgumentError, DataError, StateError
from tracerft.evaluation.suite import Predictor
from tracerft.models.encoder import embed
from tracerft.models.export import export_model
from tracerft.models.head import FILE, ClassHead, attach_head, class_head, digest, load_head, match_head, need_head
from tracerft.models.tiny import TinyDualEncoder, tokenize
from tracerft.models.weights import load_model, save_model
from tracerft.models.zero_shot import zero_shot_head, zero_shot_logits
from tracerft.types import Batch

PROMPTS = (("a zero", "the zero"), ("a one", "the one"), ("a two", "the two"))


def tokens(captions):
    """Of the small model."""
    return tokenize(captions, SMALL.context)


class Images:
    """Six random images as a split's source."""

    sha256 = "x"

    def __len__(self):
        return 6

    def image_batches(self):
        """In two batches."""
        yield from torch.rand(6, 3, 28, 28, generator=torch.Generator().manual_seed(0)).split(4)


@pytest.fixture
def model():
    """A small model with a head."""
    found = TinyDualEncoder(SMALL, seed=1)
    attach_head(found, tokens, PROMPTS)
    return found


def split(prompts=PROMPTS):
    """Six images, labels of no importance."""
    return Split(Images(), np.zeros(6, dtype=np.int64), prompts)


@pytest.mark.parametrize("folded", [True, False])
def test_a_new_head_says_what_the_zero_shot_classifier_says(folded):
    """With the scale inside the weight or outside."""
    model, images = TinyDualEncoder(SMALL, seed=1), torch.rand(4, 3, 28, 28)
    expected = zero_shot_logits(model, images, zero_shot_head(model, tokens, PROMPTS))
    attach_head(model, tokens, PROMPTS, folded=folded)
    with torch.no_grad():
        logits = need_head(model)(model.encode_image(images, normalize=True))
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    assert (need_head(model).bias is None) != folded
    norms = need_head(model).weight.norm(dim=1)
    torch.testing.assert_close(norms, torch.full_like(norms, model.logit_scale.exp().item() if folded else 1.0))


def test_the_head_is_used_where_its_own_classes_are_asked_for(model):
    """Other classes, or another order, are answered by the text tower."""
    with torch.no_grad():
        need_head(model).bias[2] += 1000.0
    predictor = Predictor({"m": model}, tokens)
    assert (predictor.logits("m", split()).argmax(1) == 2).all()
    for other in (PROMPTS[::-1], PROMPTS[:2]):
        plain = TinyDualEncoder(SMALL, seed=1)
        expected = Predictor({"m": plain}, tokens).logits("m", split(other))
        assert torch.equal(predictor.logits("m", split(other)), expected)


def test_a_batch_is_embedded_with_the_rows_of_the_head_and_no_caption(model, monkeypatch):
    """`Embeddings.text` are the class columns; the text tower does not run."""
    monkeypatch.setattr(model, "encode_text", None)
    ids = torch.arange(3)
    found = embed(model, Batch(torch.rand(3, 3, 28, 28), torch.zeros(3, 8), ids, ids, ids))
    head = need_head(model)
    assert found.text is head.weight
    assert found.bias is head.bias
    assert found.scale.item() == 1.0


@pytest.mark.parametrize("family", ["tiny", "vit"])
@pytest.mark.parametrize("folded", [True, False])
def test_a_head_travels_with_its_model(family, folded, tmp_path):
    """Weights that moved, the start, the classes; the dual encoder's own file holds nothing of it."""
    loaded = load_model(
        save_model(TinyDualEncoder(SMALL), tmp_path / "m") if family == "tiny" else small_folder(family)
    )
    attach_head(loaded.model, loaded.tokenize, PROMPTS, folded=folded)
    head = need_head(loaded.model)
    with torch.no_grad():
        head.weight += 1.5
    save_model(loaded.model, tmp_path / "saved")
    assert class_head(loaded.model) is head
    back = need_head(load_model(tmp_path / "saved").model)
    assert back.state_dict().keys() == head.state_dict().keys()
    assert all(torch.equal(back.state_dict()[n], value) for n, value in head.state_dict().items())
    assert back.prompts == digest(PROMPTS)
    (tmp_path / "saved" / FILE).unlink()
    assert class_head(load_model(tmp_path / "saved").model) is None


def test_a_damaged_head_is_reported(model, tmp_path):
    """One line that names the file."""
    save_model(model, tmp_path)
    (tmp_path / FILE).write_bytes(b"nothing")
    with pytest.raises(DataError, match="not a class head"):
        load_model(tmp_path)


def test_a_path_runs_from_the_head_at_its_start(model):
    """Interpolation needs the pretrained head, which the finetuned one remembers."""
    start = TinyDualEncoder(SMALL, seed=1)
    first = need_head(model).weight.detach().clone()
    with torch.no_grad():
        need_head(model).weight += 2.0
    match_head(start, model)
    assert torch.equal(need_head(start).weight, first)
    middle = interpolate(start, model, 0.5)
    torch.testing.assert_close(need_head(middle).weight, first + 1.0)


def test_misuse_is_one_line(model):
    """A second head, a missing one."""
    with pytest.raises(StateError, match="has a class head already"):
        attach_head(model, tokens, PROMPTS)
    with pytest.raises(ArgumentError, match="attach_head"):
        need_head(TinyDualEncoder(SMALL))


def test_logits_are_a_plain_product():
    """Against torch's own linear layer."""
    weight, image = torch.randn(4, 6), functional.normalize(torch.randn(5, 6), dim=1)
    head = ClassHead(weight, scale=3.0)
    with torch.no_grad():
        head.bias += torch.arange(4.0)
    expected = functional.linear(3.0 * image, weight, torch.arange(4.0))
    torch.testing.assert_close(head(image), expected)


@pytest.mark.parametrize("to", ["open_clip", "hf", "onnx"])
def test_an_export_has_the_head_beside_the_model(to, tmp_path):
    """The dual encoder is what other programs read; the classifier is a file of its own."""
    pytest.importorskip("onnxruntime")
    loaded = load_model(small_folder("vit"))
    attach_head(loaded.model, loaded.tokenize, PROMPTS)
    with torch.no_grad():
        need_head(loaded.model).bias += 2.0
    export_model(loaded, tmp_path / "out", to=to)
    written = load_head(tmp_path / "out")
    assert torch.equal(written.bias, need_head(loaded.model).bias)
    if to == "open_clip":
        import open_clip

        stock = open_clip.create_model(f"local-dir:{tmp_path / 'out'}")
        images = torch.rand(2, 3, 32, 32)
        with torch.no_grad():
            expected = loaded.model.eval().encode_image(images)
            torch.testing.assert_close(stock.eval().encode_image(images), expected, rtol=0, atol=1e-6)
