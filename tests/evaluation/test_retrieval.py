"""Retrieval against a loop that sorts nothing and counts everything."""

import json

import pytest
import torch

from tracerft.errors import ArgumentError, ShapeError
from tracerft.evaluation.retrieval import retrieval_ranks, retrieval_recall


def rank_loop(query: torch.Tensor, gallery: torch.Tensor, right: set[int]) -> int:
    """1 + wrong items at least as near as the nearest right one."""
    scores = [float(query.double() @ g.double() / (query.double().norm() * g.double().norm())) for g in gallery]
    best = max(scores[i] for i in right)
    return 1 + sum(score >= best for i, score in enumerate(scores) if i not in right)


@pytest.fixture(scope="module")
def captions() -> tuple[torch.Tensor, torch.Tensor, list[list[int]]]:
    """23 images with one to three of 41 texts each; some texts describe several images."""
    generator = torch.Generator().manual_seed(2)
    image, text = torch.randn(23, 16, generator=generator), torch.randn(41, 16, generator=generator)
    positives = [sorted({i, 23 + i % 18, (3 * i) % 41}) for i in range(23)]
    for i, matches in enumerate(positives):
        text[matches[0]] += 0.6 * image[i]
    return image, text, positives


@pytest.mark.parametrize("chunk", [1, 7, 1024])
def test_recall_equals_a_plain_loop(captions, chunk):
    """Both directions, several positives, whatever the chunk."""
    image, text, positives = captions
    owners = [{i for i, matches in enumerate(positives) if t in matches} for t in range(41)]
    to_text = [rank_loop(image[i], text, set(positives[i])) for i in range(23)]
    to_image = [rank_loop(text[t], image, owners[t]) for t in range(41)]
    result = retrieval_recall(image, text, positives, chunk=chunk)
    assert (result["n_images"], result["n_texts"]) == (23, 41)
    for k in (1, 5, 10):
        assert result[f"image_to_text_r{k}"] == pytest.approx(sum(r <= k for r in to_text) / 23, abs=1e-12)
        assert result[f"text_to_image_r{k}"] == pytest.approx(sum(r <= k for r in to_image) / 41, abs=1e-12)
    assert 0 < result["image_to_text_r1"] < result["image_to_text_r10"] < 1
    assert json.loads(json.dumps(result)) == result


def test_matching_pairs_are_found_and_any_positive_counts():
    """The identity is perfect; one right text of two at the top is enough."""
    assert retrieval_recall(torch.eye(12), torch.eye(12), [[i] for i in range(12)])["text_to_image_r1"] == 1.0
    text = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.9, 0.1]])
    assert retrieval_ranks(torch.tensor([[1.0, 0.0]]), text, [[0, 1]]).tolist() == [1]
    assert retrieval_ranks(torch.tensor([[1.0, 0.0]]), text, [[1]]).tolist() == [3]


def test_ties_count_against_the_model():
    """A constant embedding ranks last, equal right items do not hurt each other, zeros are no match."""
    constant = torch.ones(12, 4)
    assert retrieval_ranks(constant, constant, [[i] for i in range(12)]).tolist() == [12] * 12
    assert retrieval_recall(constant, constant, [[i] for i in range(12)])["image_to_text_r10"] == 0.0
    assert retrieval_ranks(constant, constant, [list(range(12))] * 12).tolist() == [1] * 12
    assert retrieval_ranks(torch.zeros(3, 4), torch.eye(4), [[0], [1], [2]]).tolist() == [4, 4, 4]


def test_repeated_rows_tie_in_spite_of_rounding():
    """Each text twice, once as a wrong answer: never rank 1, however the product rounds."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(64, 333, generator=generator)
    text = torch.cat([image, image * 3.7])
    assert retrieval_ranks(image, text, [[i] for i in range(64)]).tolist() == [2] * 64


def test_a_cut_off_beyond_the_gallery_is_none():
    """R@10 of four items would always be 1; an index named twice is one positive."""
    result = retrieval_recall(torch.eye(4), torch.eye(4), [[0, 0], [1], [2], [3]])
    assert result["image_to_text_r10"] is None
    assert result["image_to_text_r1"] == 1.0


def test_half_precision_is_widened():
    """bf16 embeddings give what their float32 values give."""
    image = torch.randn(30, 8, generator=torch.Generator().manual_seed(1)).bfloat16()
    positives = [[i] for i in range(30)]
    assert retrieval_recall(image, image, positives) == retrieval_recall(image.float(), image.float(), positives)


@pytest.mark.parametrize(
    ("image", "text", "positives", "options", "error", "word"),
    [
        (torch.eye(2), torch.eye(3), [[0], [1]], {}, ShapeError, "one width"),
        (torch.eye(2), torch.eye(2), [[0]], {}, ShapeError, "2 queries; got 1"),
        (torch.eye(2), torch.eye(2), [[0], []], {}, ArgumentError, "row 1 has none"),
        (torch.eye(2), torch.eye(2), [[0], [0]], {}, ArgumentError, "row 1 has none"),
        (torch.eye(2), torch.eye(2), [[0], [2]], {}, ArgumentError, r"in \[0, 2\)"),
        (torch.eye(2), torch.eye(2), [[0], [-1]], {}, ArgumentError, r"in \[0, 2\)"),
        (torch.full((2, 2), torch.nan), torch.eye(2), [[0], [1]], {}, ArgumentError, "finite"),
        (torch.eye(2), torch.eye(2), [[0], [1]], {"ks": []}, ArgumentError, "ks"),
        (torch.eye(2), torch.eye(2), [[0], [1]], {"chunk": 0}, ArgumentError, "chunk"),
    ],
)
def test_mistakes_are_one_line(image, text, positives, options, error, word):
    """Each says what came."""
    with pytest.raises(error, match=word) as caught:
        retrieval_recall(image, text, positives, **options)
    assert "\n" not in str(caught.value)
