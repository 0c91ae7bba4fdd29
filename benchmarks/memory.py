"""Bytes of the tensors that are alive at once: a count, the same on every machine."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Live(TorchDispatchMode):
    """Follows every storage that an operation makes, until it is freed; workspaces inside kernels stay unseen."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, out)):
            if torch.is_tensor(tensor):
                self._meet(tensor.untyped_storage(), made=not any(tensor is a for a in tree_leaves(args)))
        return out

    def _meet(self, storage: Any, *, made: bool) -> None:
        key, size = storage._cdata, storage.nbytes() if made else 0  # what was there before is not counted
        if key in self.known:
            return

        def gone(_: object) -> None:
            self.now -= size
            self.known.pop(key, None)

        self.known[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def peak_mib(call: Callable[[], object]) -> float:
    """MiB of tensors at the peak of a call, those that were there before not counted."""
    with _Live() as live:
        call()
    return live.peak / 2**20
