"""Captions that begin alike, for causal text towers: each prefix is computed once.

What such a tower makes of a token depends on the tokens up to it. The prefixes of many captions form a tree with a
token at each node ("a photo of a" is one path, whatever follows). Nodes of neighbouring captions are packed into one
sequence, in which each has the place it has in its captions, and sees its ancestors and itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

NODES = 64  # of a sequence: more share a little more, and attention costs more
SEQUENCES = 32  # at once
GAIN = 1.3  # times fewer tokens than captions have; below this, longer sequences are not worth it


class Packed(NamedTuple):
    """N captions in P sequences of L nodes; a text tower with ``takes_packed`` takes it for their token ids.

    Args:
        tokens: ``(P, L)`` token ids.
        positions: ``(P, L)`` places in the captions, from 0.
        seen: ``(P, L, L)``, true where a node (row) sees another (column).
        sequences: ``(N,)``, in which sequence each caption ends.
        ends: ``(N,)``, and at which node.
    """

    tokens: Tensor
    positions: Tensor
    seen: Tensor
    sequences: Tensor
    ends: Tensor

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        return type(self)(*(part.to(device) for part in self))


@dataclass
class _Sequence:
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)  # itself for the first token of a caption
    ends: list[int] = field(default_factory=list)


def share_prefixes(model: nn.Module, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Iterator[Packed]] | None:
    """Pack captions where that saves at least `GAIN`.

    Args:
        model: a dual encoder or a teacher.
        tokens: ``(N, L)`` ids.
        lengths: ``(N,)``, how many of each caption count (`text_lengths`).

    Returns:
        The order ``(N,)`` in which the captions are packed, and the packs; ``None`` where the text tower does not take
        them, was compiled (for other shapes) or the captions share too little.
    """
    model = getattr(model, "averaged", model)  # of a teacher
    towers = (model, getattr(model, "text", None))
    if not any(getattr(tower, "takes_packed", False) for tower in towers) or _is_compiled(model):
        return None
    rows = [row[:length] for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]
    order = sorted(range(len(rows)), key=rows.__getitem__)
    sequences = _packed([rows[number] for number in order])
    parts = [sequences[start : start + SEQUENCES] for start in range(0, len(sequences), SEQUENCES)]
    computed = sum(len(part) * max(len(each.tokens) for each in part) for part in parts)
    if GAIN * computed >= int(lengths.sum()):
        return None
    return torch.tensor(order), map(_collated, parts)


def _is_compiled(model: nn.Module) -> bool:
    return any(module._compiled_call_impl is not None for module in model.modules())


def _packed(rows: Sequence[list[int]]) -> list[_Sequence]:
    """Sorted captions to sequences: what a caption shares with any before it, it shares with the last."""
    found: list[_Sequence] = []
    last: list[int] = []
    path: list[int] = []  # the nodes of the last caption
    for row in rows:
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(last, row, strict=False)))
        if not found or len(found[-1].tokens) + len(row) - shared > NODES:
            found.append(_Sequence())
            shared = 0
        into = found[-1]
        del path[shared:]
        for position in range(shared, len(row)):
            node = len(into.tokens)
            into.tokens.append(row[position])
            into.positions.append(position)
            into.parents.append(path[-1] if path else node)
            path.append(node)
        into.ends.append(path[-1])
        last = row
    return found


def _collated(part: Sequence[_Sequence]) -> Packed:
    """Sequences of one length; the nodes that fill them up see themselves, so that no row of attention is empty."""
    longest = max(len(each.tokens) for each in part)
    tokens, positions = np.zeros((2, len(part), longest), np.int64)
    seen = np.tile(np.eye(longest, dtype=bool), (len(part), 1, 1))
    for number, each in enumerate(part):
        tokens[number, : len(each.tokens)] = each.tokens
        positions[number, : len(each.tokens)] = each.positions
        for node, parent in enumerate(each.parents):
            seen[number, node] |= seen[number, parent]  # complete already: a parent comes first
    sequences = [number for number, each in enumerate(part) for _ in each.ends]
    ends = [end for each in part for end in each.ends]
    return Packed(
        torch.from_numpy(tokens),
        torch.from_numpy(positions),
        torch.from_numpy(seen),
        torch.tensor(sequences),
        torch.tensor(ends),
    )
