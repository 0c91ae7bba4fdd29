"""Tensors of which each rank holds a part, as `tracerft.training.shards` leaves them; all calls take any tensor."""

from typing import Any

from torch import Tensor

from tracerft.distributed import heard_inside


def is_split(tensor: Tensor) -> bool:
    """Whether each rank holds a part of it, not a copy."""
    return hasattr(tensor, "to_local")  # torch's DTensor; its own import takes long and not every torch has it


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a split tensor, in the same memory; any other tensor itself."""
    part: Tensor = tensor.to_local() if is_split(tensor) else tensor  # type: ignore[attr-defined]
    return part


def whole(tensor: Tensor) -> Tensor:
    """All of a split tensor, gathered from all ranks, which must all ask for it; any other tensor itself."""
    if not is_split(tensor):
        return tensor
    with heard_inside():
        full: Tensor = tensor.detach().full_tensor()  # type: ignore[attr-defined]
    return full


def part_of(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor that every rank has, split as another of its shape is; itself if that one is not split."""
    if not is_split(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    placed: Any = like
    mine = distribute_tensor(value.to(like.device), placed.device_mesh, placed.placements, src_data_rank=None)
    return mine.clone()  # or it would keep the whole in memory
