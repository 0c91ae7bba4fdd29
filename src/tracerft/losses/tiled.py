"""The TRACER objective in softmax form over tiles of rows: the same number, without any (N, N) matrix.

Owns the tiles and their derivatives; the terms themselves are defined in `contrastive` and `distillation`.

Legend: N pairs, D embedding size, R rows of a tile; a direction has anchors (one tower) and keys (the other);
own: student anchors against student keys; cross: student anchors against teacher keys; both at the student's scale;
p: the teacher's distribution of an anchor over its keys; dL/dZ: derivative with respect to a block of logits.
For a row of logits z with targets t: CE = -sum t log softmax(z), dCE/dz = softmax(z) - t; KL(p || softmax(z)) has
softmax(z) - p. So each tile gives terms and derivatives at once, and backward only multiplies by what comes in.

A softmax runs over the keys of one anchor, and every rank has all keys. So ranks share out the anchors, N / W each in
both directions whoever embedded them, and add up terms and derivatives: no rank waits for another before the end.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tracerft.distributed import ALONE, World, ranks_here
from tracerft.errors import ArgumentError
from tracerft.losses.contrastive import caption_labels, check_pairs, full_precision, similarity_block
from tracerft.losses.distillation import check_same_shape
from tracerft.types import Embeddings, LossTerms

# Of the sum over rows and directions, divided by N: which terms are means of the directions (24, 27) and which sums.
HALVES = {"contrastive": 0.5, "fd": 1.0, "crd": 1.0, "icl": 0.5, "cross_kd": 0.5}
LARGE = 4096  # pairs from which on (N, N) blocks, several of 64 MiB each in float32, are not kept
BLOCK = 2**20  # elements of a block when the tile is chosen here: 4 MiB in float32
LEAST = 128  # rows then: a key's gradient is summed tile by tile, and float32 shows it where the tiles are many


def tiled_loss(
    student: Embeddings,
    teacher: Embeddings,
    weights: Mapping[str, float],
    *,
    targets: str = "diagonal",
    labels: Tensor | None = None,
    tile: int | None = None,
) -> LossTerms:
    """sum_k weights[k] term_k over `contrastive`, `fd`, `crd`, `icl`, `cross_kd`, in memory O(N (R + D)).

    Args:
        student: N pairs, N >= 2, unit-norm rows, without a bias. If it and the teacher are ``gathered``, each rank
            computes its share of the tiles and returns the loss and the gradients of the whole.
        teacher: the same shapes; no gradient flows into it. Not read if only `contrastive` has a weight.
        weights: finite coefficients; a term without one, or with 0, is not computed.
        targets: ``diagonal``, ``multi_positive`` or ``masked``, see `contrastive_loss`.
        labels: ``(N,)`` integer caption ids; needed by the last two targets.
        tile: rows R of a tile, >= 1; `rows_of_tile` by default.

    Returns:
        ``total`` ``()`` with gradient, float32 (float64 if any input is); ``parts`` each term before its weight.
        Equal to the plain terms up to rounding, as are the gradients; they cannot be differentiated again.

    Raises:
        ArgumentError: if the tile is below 1, a bias is given, or labels are missing or not integers.
        ShapeError: if student and teacher differ in shape, there is one pair only, or labels are not ``(N,)``.
        WorkerError: if another rank is gone.
    """
    num = len(student.image)
    check_pairs(num, len(student.text))
    check_tile(tile)
    if student.bias is not None:
        raise ArgumentError("`tile` is for the softmax form; got a student with a bias (SigLIP); leave tile out")
    refuse_bias(teacher)
    ids = caption_labels(labels, targets, num, student.image.device)
    check_same_shape(student, teacher)
    every = (student.image, student.text, student.scale, teacher.image, teacher.text, teacher.scale)
    image, text, scale, *theirs = full_precision(*every)
    their_image, their_text, their_scale = (t.detach() for t in theirs)
    other = Embeddings(their_image, their_text, their_scale)
    active = {name: float(weights[name]) for name in HALVES if weights.get(name, 0.0) != 0.0}
    world = ranks_here() if student.gathered and teacher.gathered else ALONE
    tiles = _Tiles(other, active, targets, ids, tile or rows_of_tile(num), torch.is_grad_enabled(), world)
    total, parts = _Total.apply(image, text, scale.reshape(()), tiles)
    return LossTerms(total, dict(zip(active, parts.unbind(), strict=True)))


def rows_of_tile(num: int) -> int:
    """So many rows that a block of ``num`` columns has about a million elements, and at least `LEAST`."""
    return max(LEAST, BLOCK // num)


def is_large(pairs: Embeddings) -> bool:
    """Whether a batch is tiled unasked: more than `LARGE` pairs, in the softmax form."""
    return pairs.bias is None and len(pairs.image) > LARGE


def refuse_bias(teacher: Embeddings) -> None:
    """Raise `ArgumentError` if the teacher of a softmax student is a sigmoid (SigLIP) model."""
    if teacher.bias is not None:
        raise ArgumentError(
            "`student` must have a bias where the teacher has one; got none; pass the model's logit_bias as "
            "Embeddings(..., bias=...), or leave it out of both for the softmax form"
        )


def check_tile(tile: int | None) -> None:
    """Raise `ArgumentError` unless ``tile`` is ``None`` or an integer of at least 1."""
    if tile is not None and (not isinstance(tile, int) or isinstance(tile, bool) or tile < 1):
        raise ArgumentError(f"`tile` must be an integer of at least 1, rows of a tile; got {tile!r}; None chooses")


class _Total(torch.autograd.Function):
    """The weighted total with its gradients computed on the way forward, so that no block waits for backward."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, text: Tensor, scale: Tensor, tiles: "_Tiles") -> tuple[Tensor, Tensor]:
        """``total`` ``()`` and the parts ``(terms,)``."""
        with torch.autocast(image.device.type, enabled=False):
            parts, gradients = tiles.run(image, text, scale, tiles.grad and any(ctx.needs_input_grad))
        ctx.mark_non_differentiable(parts)
        ctx.save_for_backward(*gradients)
        return (parts * parts.new_tensor(list(tiles.weights.values()))).sum(), parts

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_total: Tensor, _of_parts: Tensor) -> tuple[Tensor | None, ...]:
        """The saved gradients times the incoming one."""
        asked = zip(ctx.saved_tensors, ctx.needs_input_grad, strict=False)  # the last input is no tensor
        return (*(of_total * gradient if wanted else None for gradient, wanted in asked), None)


@dataclass(frozen=True)
class _Direction:
    """Anchors, keys, the teacher's, and where the derivatives of the first two go (``None``: not asked for)."""

    anchors: Tensor
    keys: Tensor
    teacher_anchors: Tensor
    teacher_keys: Tensor
    into: tuple[Tensor, Tensor] | None


@dataclass
class _Numbers:
    """A number of each tile, in memory taken beforehand.

    A small tensor kept after each tile would lie between its blocks, which the C library's allocator then does not use
    again: 17 GB at 32,768 pairs, now and then.
    """

    values: Tensor
    count: int = 0

    def append(self, value: Tensor) -> None:
        self.values[self.count] = value
        self.count += 1

    def sum(self) -> Tensor:
        """Of those there are; 0 for a rank with fewer pairs than ranks there are."""
        return self.values[: self.count].sum()


@dataclass
class _Tiles:
    """What stays the same from tile to tile, and the sums so far.

    Args:
        teacher: detached.
        weights: of the terms to compute.
        targets: as for `tiled_loss`.
        labels: ``(N,)``, or ``None`` for ``diagonal``.
        rows: of a tile.
        grad: whether gradients are recorded at all; within an autograd function they never seem to be.
        world: the ranks that share the tiles out.
    """

    teacher: Embeddings
    weights: Mapping[str, float]
    targets: str
    labels: Tensor | None
    rows: int
    grad: bool
    world: World

    def run(self, image: Tensor, text: Tensor, scale: Tensor, differentiate: bool) -> tuple[Tensor, list[Tensor]]:
        """The parts ``(terms,)``, and the total's derivatives by image, text and scale (none if not asked for)."""
        num, mine = len(image), self.world.part(len(image))
        starts = range(mine.start, mine.stop, self.rows)
        tiles = 2 * len(starts)  # both directions
        self.sums = {name: _Numbers(image.new_zeros(tiles)) for name in self.weights}
        self.scale, self.of_scale = scale, _Numbers(image.new_zeros(2 * tiles))
        self.share = {name: HALVES[name] / num for name in self.weights}
        by_rows = torch.zeros(2, *image.shape, dtype=image.dtype, device=image.device) if differentiate else None
        there = None if by_rows is None else (by_rows[0], by_rows[1])
        back = None if by_rows is None else (by_rows[1], by_rows[0])
        theirs = self.teacher
        for direction in (
            _Direction(image, text, theirs.image, theirs.text, there),
            _Direction(text, image, theirs.text, theirs.image, back),
        ):
            for start in starts:
                self._tile(direction, slice(start, min(start + self.rows, mine.stop)))
        parts = [self.share[name] * each.sum() for name, each in self.sums.items()]
        numbers = self.world.sum_(torch.stack([*parts, self.of_scale.sum()]))
        if by_rows is None:
            return numbers[:-1], []
        return numbers[:-1], [*self.world.sum_(by_rows), numbers[-1]]

    def _tile(self, d: _Direction, rows: slice) -> None:
        anchors, soft = d.anchors[rows], None
        if "fd" in self.weights:
            gap = anchors - d.teacher_anchors[rows]
            self.sums["fd"].append(gap.square().sum())
            if d.into is not None:
                d.into[0][rows].add_(gap, alpha=2.0 * self.weights["fd"] * self.share["fd"])
        if "crd" in self.weights or "cross_kd" in self.weights:
            soft = similarity_block(d.teacher_anchors[rows], d.teacher_keys, self.teacher.scale).log_softmax(dim=1)
        for names, keys in ((("contrastive", "crd"), d.keys), (("icl", "cross_kd"), d.teacher_keys)):
            if not any(name in self.weights for name in names):
                continue
            by_logits = self._terms(similarity_block(anchors, keys, self.scale), soft, rows, names)
            if d.into is None:  # the derivative cost little; the products with it would not
                continue
            pulled = by_logits @ keys
            self.of_scale.append((pulled * anchors).sum())
            d.into[0][rows].add_(pulled.mul_(self.scale))
            if keys is d.keys:  # the teacher's take none
                d.into[1].addmm_(by_logits.T, anchors * self.scale)

    def _terms(self, logits: Tensor, soft: Tensor | None, rows: slice, names: tuple[str, str]) -> Tensor:
        """Add a cross-entropy and a divergence of one block ``(R, N)`` to the sums; their weighted dL/dZ."""
        hard, divergence = names
        log = logits.log_softmax(dim=1)
        by_logits = self._cross_entropy(logits, log, rows, hard) if hard in self.weights else None
        del logits  # a block less at the peak
        if divergence in self.weights:
            assert soft is not None  # for the type checker: built where a divergence has a weight
            p = soft.exp()
            # A difference of logs: what underflows to 0 in p contributes 0, never 0 * inf.
            self.sums[divergence].append((soft - log).mul_(p).sum())
            weight = self.weights[divergence] * self.share[divergence]
            of_divergence = log.exp_().sub_(p).mul_(weight)
            by_logits = of_divergence if by_logits is None else by_logits.add_(of_divergence)
        assert by_logits is not None  # called for a name with a weight
        return by_logits

    def _cross_entropy(self, logits: Tensor, log: Tensor, rows: slice, name: str) -> Tensor:
        own = torch.arange(rows.start, rows.stop, device=logits.device)
        every = torch.arange(len(own), device=logits.device)
        weight = self.weights[name] * self.share[name]
        same = None if self.labels is None else self.labels[rows, None] == self.labels[None, :]
        if same is not None and self.targets == "multi_positive":
            answers = same.to(log.dtype).div_(same.sum(dim=1, keepdim=True))
            self.sums[name].append(-(answers * log).sum())
            return log.exp().sub_(answers).mul_(weight)
        if same is not None:
            same[every, own] = False  # the diagonal always stays, so no row of the softmax is empty
            log = logits.masked_fill(same, float("-inf")).log_softmax(dim=1)
        self.sums[name].append(-log[every, own].sum())
        by_logits = log.exp()
        by_logits[every, own] -= 1.0
        return by_logits.mul_(weight)
