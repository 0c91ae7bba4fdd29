"""The gradient of one batch, with the activations of the whole or of one chunk at a time.

In chunks this is GradCache (Gao, Zhang, Han, Callan 2021, arXiv 2101.06983): all embeddings are computed without a
graph first, the objective sees the whole batch, and then each chunk is embedded again with a graph that takes the
gradients of its rows. Plain accumulation would show each chunk only its own negatives. What is not a row of the batch
(scale, bias, a class head) is the same in every chunk, and the first one takes its gradient.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from tracerft.errors import ArgumentError
from tracerft.methods import Method
from tracerft.models.encoder import embed
from tracerft.models.features import capture
from tracerft.models.head import class_head
from tracerft.types import Batch, Embeddings, LossTerms


@dataclass(frozen=True, kw_only=True)
class Passes:
    """How the embeddings of a batch and their gradients come about.

    Args:
        model: the student; its parameters take the gradients.
        method: whose objective is differentiated; its references are embedded once and without gradient.
        chunks: K >= 1, at most the pairs of a batch; 1 is one pass with a graph. Sizes differ by one at most.
        autocast: makes the context of a forward pass.
        seed: of a pass's random numbers (dropout and the like), by a word; the caller forks the generator.
    """

    model: nn.Module
    method: Method
    chunks: int
    autocast: Callable[[], AbstractContextManager[Any]]
    seed: Callable[[str], int]

    def backward(self, batch: Batch) -> LossTerms:
        """Add the objective's gradient on the whole batch to the parameters; returns its terms.

        Raises:
            ArgumentError: if there are chunks and a BatchNorm layer takes its statistics from them.
        """
        if self.chunks > 1:
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
        pieces = _split(batch, self.chunks)
        with torch.no_grad():
            student, references = self._first_pass(pieces)
        leaves = _leaves(student)
        with self.autocast():
            terms = self.method.objective(leaves, references, batch)
        terms.total.backward()  # type: ignore[no-untyped-call]
        start = 0
        for number, piece in enumerate(pieces):
            rows = slice(start, start := start + len(piece))
            self._send(self._chunk(self.model, piece, number), leaves, rows, first=number == 0)
        return terms

    def _first_pass(self, pieces: Sequence[Batch]) -> tuple[Embeddings, Mapping[str, Embeddings]]:
        student = [self._chunk(self.model, piece, number) for number, piece in enumerate(pieces)]
        _refuse_batch_statistics(self.model)
        references = {
            name: _join([self._chunk(m, piece, number) for number, piece in enumerate(pieces)], m)
            for name, m in self.method.references().items()
        }
        return _join(student, self.model), references

    def _chunk(self, model: nn.Module, piece: Batch, number: int) -> Embeddings:
        torch.manual_seed(self.seed(f"step, chunk {number}"))  # the same numbers in both passes
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
    return Embeddings(leaf(e.image), leaf(e.text), leaf(e.scale), bias, {n: leaf(t) for n, t in e.features.items()})


def _refuse_batch_statistics(model: nn.Module) -> None:
    """Called after a forward pass, in which layers of a frozen tower put themselves into eval mode."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            raise ArgumentError(
                f"`train.accumulate` must be 1 for this model, as {name} takes its statistics from the batch and would "
                "see chunks of it; set it to 1, or freeze the tower"
            )
