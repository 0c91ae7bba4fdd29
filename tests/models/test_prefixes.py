"""Captions packed by their prefixes: the same embeddings from fewer tokens."""

import pytest
import torch
import torch.nn.functional as F

from tests.models.small import CAPTIONS, OPEN_CLIP, folder, hf_folder, stock
from tracerft import WMATeacher, load_model
from tracerft.models import prefixes
from tracerft.models.encoder import text_lengths
from tracerft.models.open_clip import accept_short_text
from tracerft.models.prefixes import share_prefixes
from tracerft.models.zero_shot import encode_captions

CAUSAL = ("vit", "quickgelu", "proj-bias", "resnet", "custom-text", "timm")
ALIKE = (
    *(
        f"a {kind} of {which} {name}"
        for kind in ("photo", "drawing")
        for which in ("a", "the")
        for name in ("cat", "dog")
    ),
    "a photo of a",  # ends where others go on
    "a photo of  a cat",  # the tokens of another
    "zebras",
    "a photo of a cat on a mat in a house by the sea and a good deal more than the tower has room for",
)


def loaded_twice(kind):
    """Ours, and open_clip's own; weights ten times as large, so that a wrong token is far more than rounding."""
    ours, reference = load_model(folder(kind)), stock(kind)
    with torch.no_grad():
        for model in (ours.model, reference):
            tower = getattr(model, "text", model)
            for weight in (tower.token_embedding.weight, tower.positional_embedding):
                weight.mul_(10)
            for block in tower.transformer.resblocks:
                block.attn.in_proj_weight.mul_(3)
                block.attn.out_proj.weight.mul_(10)
    return ours, reference


def tokens_computed(model, run):
    """How many tokens the first block of the text tower sees while something runs."""
    seen = []
    block = getattr(model, "text", model).transformer.resblocks[0]
    handle = block.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].shape[:2].numel()))
    run()
    handle.remove()
    return sum(seen)


@pytest.mark.parametrize("nodes", [64, 20, 4])
@pytest.mark.parametrize("kind", CAUSAL)
def test_embeddings_are_those_of_whole_captions_by_open_clip(kind, nodes, monkeypatch):
    """In one sequence, in several of unlike length, and in ones that a caption overfills."""
    monkeypatch.setattr(prefixes, "NODES", nodes)
    monkeypatch.setattr(prefixes, "SEQUENCES", 2)
    monkeypatch.setattr(prefixes, "GAIN", 0.0)
    ours, reference = loaded_twice(kind)
    tokens = ours.tokenize(ALIKE)
    assert share_prefixes(ours.model, tokens, text_lengths(ours.model, tokens)) is not None
    with torch.no_grad():
        expected = torch.cat([reference.encode_text(row[None], normalize=True) for row in tokens])
    torch.testing.assert_close(encode_captions(ours.model, ours.tokenize, ALIKE), expected, rtol=0, atol=3e-6)
    assert (expected[0] - expected[1]).abs().max() > 1e-2  # the last word counts


def test_towers_pooled_at_a_given_end_share_too():
    """``pool_type: eos``, with an end that is not the highest id."""
    model = stock("vit")
    model.text_pool_type, model.text_eos_id = "eos", 7
    tokens = torch.tensor([[9, 5, 3, 7, 0, 0], [9, 5, 3, 2, 7, 0], [9, 5, 3, 2, 4, 7], [9, 5, 3, 2, 4, 7]])
    whole = F.pad(tokens, (0, 10))
    with torch.no_grad():
        expected = model.encode_text(whole, normalize=True)
    accept_short_text(model)
    found = []
    computed = tokens_computed(model, lambda: found.append(encode_captions(model, lambda _: whole, "abcd")))
    assert computed == 5 + 3  # 9 5 3 2 4 and three ends
    assert text_lengths(model, whole).sum() == 21
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-6)


def test_each_prefix_is_computed_once():
    """As many tokens as the captions have different beginnings, counted by a set."""
    loaded = load_model(folder("vit"))
    tokens = loaded.tokenize(ALIKE)
    lengths = text_lengths(loaded.model, tokens).tolist()
    rows = [tuple(row[:length]) for row, length in zip(tokens.tolist(), lengths, strict=True)]
    beginnings = {row[:end] for row in rows for end in range(1, len(row) + 1)}
    computed = tokens_computed(loaded.model, lambda: encode_captions(loaded.model, loaded.tokenize, ALIKE))
    assert computed == len(beginnings) < sum(lengths) / 1.3


def test_a_tree_by_hand(monkeypatch):
    """Two sequences for three captions, each twice: places, ancestors, ends, and nodes that only fill up."""
    monkeypatch.setattr(prefixes, "NODES", 4)
    tokens = torch.tensor([[8, 9], [5, 7], [5, 6]] * 2)
    order, packs = share_prefixes(load_model(folder("vit")).model, tokens, torch.full((6,), 2))
    assert order.tolist() == [2, 5, 1, 4, 0, 3]
    (pack,) = packs
    assert pack.tokens.tolist() == [[5, 6, 7], [8, 9, 0]]
    assert pack.positions.tolist() == [[0, 1, 1], [0, 1, 0]]
    assert pack.seen.int().tolist() == [[[1, 0, 0], [1, 1, 0], [1, 0, 1]], [[1, 0, 0], [1, 1, 0], [0, 0, 1]]]
    assert pack.sequences.tolist() == [0, 0, 0, 0, 1, 1]
    assert pack.ends.tolist() == [1, 1, 2, 2, 1, 1]


@pytest.mark.parametrize("kind", sorted(set(OPEN_CLIP) - set(CAUSAL)))
def test_other_towers_of_open_clip_do_not_share(kind):
    """SigLIP's sees its padding, CoCa's has a class token."""
    loaded = load_model(folder(kind))
    tokens = loaded.tokenize(ALIKE)
    assert share_prefixes(loaded.model, tokens, text_lengths(loaded.model, tokens)) is None


def test_transformers_towers_do_not_share():
    """They are not made of modules whose inputs are known here."""
    pytest.importorskip("transformers")
    loaded = load_model(hf_folder("clip"))
    tokens = loaded.tokenize(ALIKE)
    assert share_prefixes(loaded.model, tokens, text_lengths(loaded.model, tokens)) is None


def test_captions_that_share_little_go_as_they_are():
    """Each begins with the start of text, and that is all."""
    loaded = load_model(folder("vit"))
    tokens = loaded.tokenize(CAPTIONS[1:])
    assert share_prefixes(loaded.model, tokens, text_lengths(loaded.model, tokens)) is None


@pytest.mark.parametrize(("kind", "tower"), [("vit", "transformer"), ("custom-text", "text")])
def test_a_compiled_tower_goes_on_with_the_shapes_it_knows(kind, tower):
    """No graph more for the head."""
    loaded = load_model(folder(kind))
    tokens = loaded.tokenize(ALIKE)
    lengths = text_lengths(loaded.model, tokens)
    assert share_prefixes(loaded.model, tokens, lengths) is not None
    loaded.model.get_submodule(tower).compile(backend="eager")
    assert share_prefixes(loaded.model, tokens, lengths) is None


def test_a_teacher_shares_as_its_model_does():
    """The same bits, so that a gap between the two is one of weights."""
    loaded = load_model(folder("vit"))
    teacher = WMATeacher(loaded.model, total_steps=3)
    found = []
    computed = tokens_computed(teacher.averaged, lambda: found.append(encode_captions(teacher, loaded.tokenize, ALIKE)))
    assert computed < sum(text_lengths(loaded.model, loaded.tokenize(ALIKE)).tolist()) / 1.3
    assert torch.equal(found[0], encode_captions(loaded.model, loaded.tokenize, ALIKE))
