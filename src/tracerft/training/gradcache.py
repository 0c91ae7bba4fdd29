"""The gradient of one batch, with the activations of the whole or of one chunk at a time.

In chunks this is GradCache (Gao, Zhang, Han, Callan 2021, arXiv 2101.06983): all embeddings are computed without a
graph first, the objective sees the whole batch, and then each chunk is embedded again with a graph that takes the
gradients of its rows. Plain accumulation would show each chunk only its own negatives. What is not a row of the batch
(scale, bias, a class head) is the same in every chunk, and the first one takes its gradient.

On several ranks each embeds its own rows, in one chunk or more, and the embeddings are gathered before the objective,
which every rank computes on the whole batch. So a rank is a chunk too, and the sum of the ranks' gradients is the one
of the whole batch.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from tracerft.distributed import gather_rows
from tracerft.errors import ArgumentError
from tracerft.methods import Method
from tracerft.models.encoder import embed
from tracerft.models.features import capture
from tracerft.models.head import class_head
from tracerft.training.ranks import whole_batch
from tracerft.types import Batch, Embeddings, LossTerms


@dataclass(frozen=True, kw_only=True)
class Passes:
    """How the embeddings of a batch and their gradients come about.

    Args:
        model: the student; its parameters take the gradients.
        method: whose objective is differentiated; its references are embedded once and without gradient.
        chunks: K >= 1, of this rank's pairs; 1 is one pass with a graph. Sizes differ by one at most.
        autocast: makes the context of a forward pass.
        seed: of a pass's random numbers (dropout and the like), by a word; the caller forks the generator.
        rank: this process among the ranks.
        sizes: rows of each rank, the first has at least one; empty or a single one without other ranks.
    """

    model: nn.Module
    method: Method
    chunks: int
    autocast: Callable[[], AbstractContextManager[Any]]
    seed: Callable[[str], int]
    rank: int = 0
    sizes: Sequence[int] = ()

    @property
    def _several(self) -> bool:
        return len(self.sizes) > 1

    def backward(self, batch: Batch) -> LossTerms:
        """Add the objective's gradient on the whole batch to the parameters; returns its terms.

        Args:
            batch: this rank's rows, or any single one if it has none. The gradients of all ranks are still to be
                summed then, see `tracerft.training.ranks.sum_gradients`.

        Raises:
            ArgumentError: if there are chunks or ranks and a BatchNorm layer takes its statistics from them.
        """
        if self.chunks > 1 or self._several:
            return self._cached(batch)
        torch.manual_seed(self.seed("step"))
        with self.autocast():
            student = self._embed(self.model, batch)
            with torch.no_grad():
                references = {name: self._embed(m, batch) for name, m in self.method.references().items()}
            terms = self.method.objective(student, references, batch)
        terms.total.backward()  # type: ignore[no-untyped-call]
        return terms

    def _cached(self, batch: Batch) -> LossTerms:
        pieces = _split(batch, min(self.chunks, len(batch)))
        with torch.set_grad_enabled(len(pieces) == 1):  # one piece keeps its graph, several are embedded once more
            student = [self._chunk(self.model, piece, number) for number, piece in enumerate(pieces)]
        self._refuse_batch_statistics()
        with torch.no_grad():
            leaves, references = _leaves(self._whole(student, self.model)), self._references(pieces)
            whole = whole_batch(batch, self.rank, self.sizes)
        if self._several:
            torch.manual_seed(self.seed("step, objective"))  # of a method that runs the student in there
        with self.autocast():
            terms = self.method.objective(leaves, references, whole)
        terms.total.backward()  # type: ignore[no-untyped-call]
        if self.rank > 0:
            self.model.zero_grad()  # what came from inside the objective is whole on every rank: the first one's counts
        if self._several and not self.sizes[self.rank]:
            return terms
        start = sum(self.sizes[: self.rank])
        for number, piece in enumerate(pieces):
            rows = slice(start, start := start + len(piece))
            chunk = student[0] if len(pieces) == 1 else self._chunk(self.model, piece, number)
            self._send(chunk, leaves, rows, first=self.rank == number == 0)
        return terms

    def _references(self, pieces: Sequence[Batch]) -> Mapping[str, Embeddings]:
        return {
            name: self._whole([self._chunk(m, piece, number) for number, piece in enumerate(pieces)], m)
            for name, m in self.method.references().items()
        }

    def _whole(self, chunks: Sequence[Embeddings], model: nn.Module) -> Embeddings:
        """The rows of all chunks of all ranks."""
        mine = _join(chunks, model)
        if not self._several:
            return mine

        def gathered(rows: Tensor) -> Tensor:
            return gather_rows(rows[: self.sizes[self.rank]], self.sizes)

        text = gathered(mine.text) if class_head(model) is None else mine.text
        features = {name: gathered(rows) for name, rows in mine.features.items()}
        return replace(mine, image=gathered(mine.image), text=text, features=features, gathered=True)

    def _chunk(self, model: nn.Module, piece: Batch, number: int) -> Embeddings:
        # The same numbers in both passes, others in every chunk of every rank.
        torch.manual_seed(self.seed(f"step, chunk {self.rank * self.chunks + number}"))
        # A context for each pass: a weight that autocast has cast without a graph, and kept, gets no gradient later.
        with self.autocast():
            return self._embed(model, piece)

    def _embed(self, model: nn.Module, batch: Batch) -> Embeddings:
        """Embeddings, with the features of the layers that the method names."""
        layers: tuple[str, ...] = getattr(self.method, "layers", ())
        if not layers:
            return embed(model, batch)
        with capture(model, layers) as seen:
            return replace(embed(model, batch), features=seen)

    def _send(self, chunk: Embeddings, leaves: Embeddings, rows: slice, *, first: bool) -> None:
        """Backward from a chunk's tensors with the gradients that the objective left for them."""
        mine, whole = _tensors(chunk, self.model), _tensors(leaves, self.model)
        ends: list[tuple[Tensor, Tensor]] = []
        for by_row, (tensors, cached) in zip((True, False), zip(mine, whole, strict=True), strict=True):
            for name, tensor in tensors.items():
                gradient = cached[name].grad
                if tensor.requires_grad and gradient is not None and (by_row or first):
                    ends.append((tensor, gradient[rows] if by_row else gradient))
        if ends:
            torch.autograd.backward([tensor for tensor, _ in ends], [gradient for _, gradient in ends])

    def _refuse_batch_statistics(self) -> None:
        """Called after a forward pass, in which layers of a frozen tower put themselves into eval mode."""
        for name, module in self.model.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
                if self._several:
                    what, cure = "this model cannot train on several ranks", "run it on one, or freeze the tower"
                else:
                    what, cure = "`train.accumulate` must be 1 for this model", "set it to 1, or freeze the tower"
                raise ArgumentError(
                    f"{what}, as {name} takes its statistics from the batch and would see chunks of it; {cure}"
                )


def _split(batch: Batch, chunks: int) -> list[Batch]:
    bounds = [len(batch) * k // chunks for k in range(chunks + 1)]
    tensors = {f.name: value for f in fields(batch) if torch.is_tensor(value := getattr(batch, f.name))}
    return [replace(batch, **{name: t[a:b] for name, t in tensors.items()}) for a, b in pairwise(bounds)]


def _tensors(e: Embeddings, model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Those with a row for each pair, and those of the model alone: of a class head, ``text`` are its rows."""
    rows = {"image": e.image, **{f"features.{name}": value for name, value in e.features.items()}}
    shared = {"scale": e.scale} | ({} if e.bias is None else {"bias": e.bias})
    (rows if class_head(model) is None else shared)["text"] = e.text
    return rows, shared


def _join(chunks: Sequence[Embeddings], model: nn.Module) -> Embeddings:
    first, image = chunks[0], torch.cat([e.image for e in chunks])
    text = torch.cat([e.text for e in chunks]) if class_head(model) is None else first.text
    features = {name: torch.cat([e.features[name] for e in chunks]) for name in first.features}
    return Embeddings(image, text, first.scale, first.bias, features)


def _leaves(e: Embeddings) -> Embeddings:
    """The same numbers as ends of a new graph."""

    def leaf(tensor: Tensor) -> Tensor:
        return tensor.detach().requires_grad_()

    bias = None if e.bias is None else leaf(e.bias)
    features = {name: leaf(rows) for name, rows in e.features.items()}
    return replace(e, image=leaf(e.image), text=leaf(e.text), scale=leaf(e.scale), bias=bias, features=features)
