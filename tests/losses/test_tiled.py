"""Tiles against the plain losses: the same numbers and gradients, and no (N, N) matrix on the way."""

from unittest import mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.losses.pairs import LABELS, random_pairs
from tests.reference import losses as reference
from tracerft.errors import ArgumentError, ShapeError
from tracerft.losses import TracerLoss, pair_loss, tiled, tracer
from tracerft.losses.tiled import rows_of_tile, tiled_loss
from tracerft.types import Embeddings

TARGETS = ["diagonal", "multi_positive", "masked"]
ODD = {"fd": 0.5, "crd": 2.0, "icl": 3.0, "cross_kd": 0.25}
ONLY = [{name: float(name == one) for name in ODD} for one in ODD]


def gradients(loss, student, teacher, labels):
    """Terms, and the gradients of three times the total by image, text and scale."""
    terms = loss(student, teacher, labels)
    return terms, torch.autograd.grad(3.0 * terms.total, [student.image, student.text, student.scale])


@pytest.mark.parametrize("weights", [ODD, *ONLY, dict.fromkeys(ODD, 0.0)])
@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("tile", [1, 2, 5, 99])
def test_tiles_are_the_plain_losses_in_float64(tile, targets, weights):
    """Total, parts, and gradients of image, text and scale to 1e-12; the plain losses are the reference.

    Five pairs in tiles of 1, of 2 with one left over, of 5 and of more than there are; each term alone and all.
    """
    student, teacher = random_pairs(0, scale=9.0), random_pairs(1, scale=6.0)
    whole, by_whole = gradients(TracerLoss(0.7, **weights, targets=targets), student, teacher, LABELS)
    terms, by_tile = gradients(TracerLoss(0.7, **weights, targets=targets, tile=tile), student, teacher, LABELS)
    assert list(terms.parts) == list(whole.parts)
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close([terms.total, *terms.parts.values()], [whole.total, *whole.parts.values()], **close)
    torch.testing.assert_close(by_tile, by_whole, **close)
    assert not any(part.requires_grad for part in terms.parts.values())
    assert [t.grad for t in (teacher.image, teacher.text, teacher.scale)] == [None] * 3


@pytest.mark.parametrize("targets", TARGETS)
def test_tiles_are_the_loops_over_pairs(targets):
    """Every part against plain loops in float64 (tests/reference/losses.py)."""
    student, teacher = random_pairs(2, scale=5.0), random_pairs(3, scale=3.0)
    (si, st, ss), (ti, tt, ts) = ((e.image.tolist(), e.text.tolist(), e.scale.item()) for e in (student, teacher))
    ids = LABELS.tolist()
    expected = {
        "contrastive": reference.icl(si, st, si, st, ss, targets, ids),  # ICL of a student with itself
        "fd": reference.fd(si, st, ti, tt),
        "crd": reference.crd(si, st, ss, ti, tt, ts),
        "icl": reference.icl(si, st, ti, tt, ss, targets, ids),
        "cross_kd": reference.cross_kd(si, st, ss, ti, tt, ts),
    }
    weights = dict.fromkeys(expected, 1.0)
    terms = tiled_loss(student, teacher, weights, targets=targets, labels=LABELS, tile=2)
    assert {name: part.item() for name, part in terms.parts.items()} == pytest.approx(expected, abs=1e-12)
    assert terms.total.item() == pytest.approx(sum(expected.values()), abs=1e-12)


class Seen(TorchDispatchMode):
    """Remembers the size of the largest tensor an operation made, and the shapes of the matrix products."""

    def __init__(self):
        super().__init__()
        self.largest, self.products = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run and look."""
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if torch.is_tensor(tensor):
                self.largest = max(self.largest, tensor.numel())
                if func is torch.ops.aten.mm.default:
                    self.products.append(tuple(tensor.shape))
        return out


@pytest.mark.parametrize("targets", TARGETS)
def test_nothing_as_large_as_a_block_is_made_and_each_tile_is_built_once(targets):
    """64 pairs in tiles of 8: no tensor above 8 x 64, three blocks a tile and direction for all five terms."""
    num, width, tile = 64, 4, 8
    student, teacher = (random_pairs(k, num=num, width=width, dtype=torch.float32) for k in (0, 1))
    labels = torch.arange(num) // 2
    with Seen() as seen:
        TracerLoss(targets=targets, tile=tile)(student, teacher, labels).total.backward()
    assert seen.largest == tile * num
    assert seen.products.count((tile, num)) == 2 * (num // tile) * 3
    with Seen() as plain:
        TracerLoss(targets=targets)(student, teacher, labels).total.backward()
    assert plain.largest == num * num


def test_terms_without_weight_build_no_block_and_no_gradient_costs_nothing():
    """The contrastive term alone needs one block a tile and direction; without gradients there are no others."""
    student = random_pairs(0, num=8, width=3)
    with Seen() as seen, torch.no_grad():
        TracerLoss(sd_weight=0, tile=4)(student, None)
    assert seen.products == [(4, 8)] * 4


def test_tiles_come_by_themselves_above_the_limit():
    """At the limit blocks are whole, one pair later they are tiles of about a million elements."""
    for num, calls in ((6, 0), (7, 1)):
        student, teacher = random_pairs(0, num=num), random_pairs(1, num=num)
        with (
            mock.patch.object(tiled, "LARGE", 6),
            mock.patch.object(tracer, "tiled_loss", side_effect=tiled.tiled_loss) as tiles,
        ):
            TracerLoss()(student, teacher)
            TracerLoss()(random_pairs(0, num=num, bias=0.0), random_pairs(1, num=num, bias=0.0))
        assert tiles.call_count == calls
    assert tiled.LARGE == 4096


@pytest.mark.parametrize("targets", TARGETS)
def test_the_plain_contrastive_loss_is_tiled_above_the_limit_too(targets):
    """Direct finetuning builds no (N, N) block there, and value and gradients are those of whole blocks."""
    pairs = [random_pairs(0, num=7) for _ in range(2)]
    labels = torch.tensor([0, 1, 1, 2, 3, 3, 3])
    whole = pair_loss(pairs[0], targets, labels)
    with mock.patch.multiple(tiled, LARGE=6, BLOCK=14, LEAST=1), Seen() as seen:
        by_tiles = pair_loss(pairs[1], targets, labels)
    assert {rows for rows, _ in seen.products} == {1, 2}
    torch.testing.assert_close(by_tiles, whole, rtol=1e-12, atol=1e-12)
    whole.backward()
    by_tiles.backward()
    torch.testing.assert_close(pairs[1].image.grad, pairs[0].image.grad, rtol=1e-12, atol=1e-12)


def test_half_precision_embeddings_are_read_in_float32_also_inside_autocast():
    """As for the plain losses; gradients come in the embeddings' own dtype."""
    student, teacher = (random_pairs(k, dtype=torch.bfloat16) for k in (0, 1))
    expected = TracerLoss()(student, teacher).total
    with torch.autocast("cpu", torch.bfloat16):
        terms, by = gradients(TracerLoss(tile=2), student, teacher, None)
    assert terms.total.dtype == torch.float32
    torch.testing.assert_close(terms.total, expected, rtol=1e-6, atol=1e-6)
    assert [g.dtype for g in by] == [torch.bfloat16] * 3


def test_what_needs_no_gradient_gets_none():
    """A frozen text tower and scale: the image's gradient stays the same; a scale of shape (1,) keeps its shape."""
    student, teacher = random_pairs(0), random_pairs(1)
    whole = gradients(TracerLoss(tile=2), student, teacher, None)[1]
    part = Embeddings(student.image, student.text.detach(), student.scale.detach())
    (by_image,) = torch.autograd.grad(TracerLoss(tile=2)(part, teacher).total, [student.image])
    assert torch.equal(by_image * 3.0, whole[0])
    scale = student.scale.detach().reshape(1).requires_grad_()
    TracerLoss(tile=2)(Embeddings(student.image, student.text, scale), teacher).total.backward()
    torch.testing.assert_close(scale.grad * 3.0, whole[2].reshape(1))


def test_a_probability_that_underflows_contributes_nothing():
    """Scale 400 in float32: finite everywhere, as for the plain losses."""
    student, teacher = (random_pairs(k, scale=400.0, dtype=torch.float32) for k in (0, 1))
    terms, by = gradients(TracerLoss(tile=2), student, teacher, None)
    whole, by_whole = gradients(TracerLoss(), student, teacher, None)
    assert terms.total.isfinite()
    torch.testing.assert_close(terms.total, whole.total)
    torch.testing.assert_close(by, by_whole, rtol=1e-4, atol=1e-3)


def test_misuse_is_explained():
    """The errors of the plain losses, and the tile's own."""
    student, teacher = random_pairs(0), random_pairs(1)
    for tile in (0, -1, 2.0, True):
        with pytest.raises(ArgumentError, match=r"`tile` must be an integer of at least 1.*None chooses"):
            TracerLoss(tile=tile)
    with pytest.raises(ArgumentError, match="`labels` must be given"):
        TracerLoss(targets="masked", tile=2)(student, teacher)
    with pytest.raises(ShapeError, match="one id a pair"):
        TracerLoss(targets="masked", tile=2)(student, teacher, LABELS[:2])
    with pytest.raises(ShapeError, match="embed the same batch with both models"):
        TracerLoss(tile=2)(student, random_pairs(2, num=4))
    with pytest.raises(ShapeError, match="use a batch size >= 2"):
        TracerLoss(tile=2)(random_pairs(3, num=1), random_pairs(4, num=1))
    with pytest.raises(ArgumentError, match="`tile` is for the softmax form"):
        TracerLoss(tile=2)(random_pairs(0, bias=0.0), random_pairs(1, bias=0.0))
    with pytest.raises(ArgumentError, match="`student` must have a bias"):
        TracerLoss(tile=2)(student, random_pairs(1, bias=0.0))
    assert repr(TracerLoss(tile=2)).endswith("targets='diagonal', tile=2)")


def test_a_tile_is_a_million_elements_or_128_rows():
    """Whichever is more."""
    assert [rows_of_tile(num) for num in (1024, 4096, 8192, 32768)] == [1024, 256, 128, 128]
