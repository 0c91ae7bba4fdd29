"""CAR-FT's context rows against open_clip's own embeddings, averaged in a loop."""

import math

import pytest
import torch

from tests.models.small import folder, stock
from tracerft import load_model
from tracerft.errors import ArgumentError
from tracerft.models.contexts import context_rows
from tracerft.models.tiny import TinyConfig, TinyDualEncoder, tokenize

NAMES = ("cat", "dog", "number three")
TEMPLATES = ("a photo of a {}.", "a {}.", "one {} in the dark.", "nothing")
PROMPTS = [[template.format(name) for template in TEMPLATES] for name in NAMES]


def test_rows_are_class_means_per_template():
    """Stock open_clip, one prompt at a time, plain sums: normalise, mean over classes, normalise."""
    loaded, reference = load_model(folder("vit")), stock("vit")
    rows = context_rows(loaded.model, loaded.tokenize, PROMPTS)
    assert rows.shape == (len(TEMPLATES), 24)
    assert not rows.requires_grad
    for k in range(len(TEMPLATES)):
        total = [0.0] * 24
        for of_class in PROMPTS:
            with torch.no_grad():
                row = reference.encode_text(loaded.tokenize([of_class[k]]))[0].tolist()
            total = [t + v / math.hypot(*row) for t, v in zip(total, row, strict=True)]
        expected = torch.tensor([t / math.hypot(*total) for t in total])
        torch.testing.assert_close(rows[k], expected, rtol=0, atol=1e-6)


def test_rows_have_unit_norm_each():
    """Each context by its own norm, not the matrix by one; a single template gives a single row."""
    model = TinyDualEncoder(TinyConfig(width=16, layers=1, heads=2, text_layers=1, embed_dim=8))
    short = [[prompt[:20] for prompt in of_class] for of_class in PROMPTS]
    rows = context_rows(model, tokenize, short)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(4))
    assert context_rows(model, tokenize, [of_class[:1] for of_class in short]).shape == (1, 8)


@pytest.mark.parametrize("prompts", [[], [[], []], [["a", "b"], ["c"]]])
def test_classes_need_equally_many_prompts(prompts):
    """One line that says what to do."""
    with pytest.raises(ArgumentError, match="fill one list of templates") as caught:
        context_rows(TinyDualEncoder(), tokenize, prompts)
    assert "\n" not in str(caught.value)
