"""The tensors of a teacher: which are averaged, copied or shared, and how a student's are matched to them."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tracerft.errors import ArgumentError, StateError
from tracerft.split import local


@dataclass(frozen=True)
class Names:
    """Every tensor of a model by what happens to it at an update.

    Args:
        lerped: averaged; floating parameters and, by policy, floating buffers.
        copied: taken over from the student.
        loose: non-persistent buffers; taken over where the student has one of that name and shape. Such buffers
            are constants or caches (open_clip's attention mask holds ``-inf``, which no average survives).
        frozen: never touched; shared with the student where its dtype allows.
    """

    lerped: tuple[str, ...]
    copied: tuple[str, ...]
    loose: tuple[str, ...]
    frozen: tuple[str, ...]

    @classmethod
    def of(cls, module: nn.Module, frozen: tuple[str, ...], buffers: str) -> "Names":
        """Sort the names of ``module``; ``buffers`` is ``"average"`` or ``"copy"``."""
        persistent = set(module.state_dict(keep_vars=True))
        lerped: list[str] = []
        copied: list[str] = []
        loose: list[str] = []
        skip = set(frozen)
        for name, parameter in module.named_parameters():  # names a tied tensor once, so it moves once
            if name not in skip:
                (lerped if _is_continuous(parameter) else copied).append(name)
        for name, buffer in module.named_buffers():
            if name not in persistent:
                loose.append(name)
            elif buffers == "average" and _is_continuous(buffer) and bool(buffer.isfinite().all()):
                lerped.append(name)
            else:
                copied.append(name)
        return cls(tuple(lerped), tuple(copied), tuple(loose), frozen)


def check_module(model: object) -> None:
    """Raise `ArgumentError` unless ``model`` is a module."""
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"`model` must be a torch.nn.Module; got {type(model).__name__}; pass the student")


def frozen_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the parameters without ``requires_grad``, both names of tied ones.

    Raises:
        ArgumentError: if nothing is left to train.
    """
    parameters = list(model.named_parameters(remove_duplicate=False))
    frozen = tuple(name for name, parameter in parameters if not parameter.requires_grad)
    if len(frozen) == len(parameters):
        raise ArgumentError(
            "`trainable_only` needs a parameter that requires gradients; got none; unfreeze the model before this"
        )
    return frozen


def copy_in_float32(model: nn.Module, frozen: tuple[str, ...]) -> nn.Module:
    """A deep copy without gradients, 16-bit tensors widened to float32; ``frozen`` ones shared where wide enough."""
    every = dict(model.named_parameters(remove_duplicate=False))
    shared = {id(every[name]): every[name] for name in frozen if not _is_narrow(every[name].dtype)}
    twin = copy.deepcopy(model, dict(shared))
    twin._apply(lambda tensor: tensor.float() if _is_narrow(tensor.dtype) else tensor)  # type: ignore[no-untyped-call]
    return twin.requires_grad_(False)


def unshare(module: nn.Module, frozen: tuple[str, ...], fn: Callable[[Tensor], Tensor]) -> None:
    """Give ``module`` its own frozen tensors where ``fn`` changes dtype or device, so the student's stay put."""
    fresh: dict[int, nn.Parameter] = {}
    for name in frozen:
        owner, _, leaf = name.rpartition(".")
        parameter = module.get_parameter(name)
        if id(parameter) not in fresh:
            moved = fn(parameter.detach())
            same = moved.dtype == parameter.dtype and moved.device == parameter.device
            fresh[id(parameter)] = parameter if same else nn.Parameter(moved, requires_grad=False)
        setattr(module.get_submodule(owner), leaf, fresh[id(parameter)])


def leave_frozen_out(teacher: nn.Module) -> None:
    """Keep the tensors named in ``teacher.frozen`` out of its state dict, and load without them."""
    teacher.register_state_dict_post_hook(_drop_frozen)  # type: ignore[no-untyped-call]
    teacher.register_load_state_dict_pre_hook(_put_frozen_back)  # type: ignore[no-untyped-call]


def matched(module: nn.Module, student: nn.Module, names: Names) -> dict[str, tuple[Tensor, Tensor]]:
    """Pairs (teacher's tensor, student's tensor) by name.

    Raises:
        ArgumentError: if ``student`` is no module.
        StateError: at the first name or shape that does not fit, or a shared parameter that has begun to train.
    """
    check_module(student)
    mine, theirs = dict(_named_tensors(module)), dict(_named_tensors(student))
    cure = _cure(theirs)
    for name, _ in student.named_parameters():
        if name not in mine:
            raise StateError(f"`model` has a parameter {name!r} that the teacher lacks; {cure}")
    for name in (*names.lerped, *names.copied, *names.frozen):
        if name not in theirs:
            raise StateError(f"`model` lacks {name!r}, which the teacher has; {cure}")
        if mine[name].shape != theirs[name].shape:
            shapes = f"{tuple(mine[name].shape)} in the teacher but {tuple(theirs[name].shape)} in `model`"
            raise StateError(f"{name!r} has shape {shapes}; {cure}")
    for name in names.frozen:
        if theirs[name].requires_grad:
            raise StateError(
                f"{name!r} was frozen when the teacher was built with trainable_only=True but trains now; "
                "unfreeze it before building the teacher"
            )
    fitting = [name for name in names.loose if name in theirs and mine[name].shape == theirs[name].shape]
    return {name: (mine[name], theirs[name].detach()) for name in (*names.lerped, *names.copied, *fitting)}


def absorb(pairs: dict[str, tuple[Tensor, Tensor]], names: Names, omega: float) -> None:
    """Move the teacher's tensors by ``omega`` in [0, 1] towards the student's, in place; copy those not averaged."""
    # Of what is split over ranks each moves its own part, as both are split alike: nothing is sent.
    mine = [local(pairs[name][0]) for name in names.lerped]
    theirs = [local(pairs[name][1]).to(part) for name, part in zip(names.lerped, mine, strict=True)]  # device and dtype
    if mine:
        torch._foreach_lerp_(mine, theirs, omega)
    for name in (*names.copied, *names.loose):
        if name in pairs:
            pairs[name][0].copy_(pairs[name][1])


def widen(value: Any, dtype: torch.dtype) -> Any:
    """A floating tensor of fewer bits than ``dtype`` in ``dtype``; anything else as it is."""
    if torch.is_tensor(value) and value.is_floating_point() and value.dtype.itemsize < dtype.itemsize:
        return value.to(dtype)
    return value


def refuse_narrow(fn: Callable[[Tensor], Tensor]) -> None:
    """Try a conversion on one number.

    Raises:
        ArgumentError: if it leads below float32.
    """
    dtype = fn(torch.zeros(1, dtype=torch.float32)).dtype
    if _is_narrow(dtype):
        raise ArgumentError(
            f"a teacher needs float32 or wider, since most increments of an average vanish in 16 bits; got {dtype}; "
            "convert the student alone, inputs are widened by the teacher"
        )


def _named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _cure(names: dict[str, Tensor]) -> str:
    first = next(iter(names), "")
    if first.startswith("module."):
        return "pass model.module, the model inside DistributedDataParallel"
    if first.startswith("_orig_mod."):
        return "pass model._orig_mod, the model inside torch.compile"
    return "pass the model that the teacher was built from (model.module or model._orig_mod if it is wrapped)"


def _is_continuous(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _is_narrow(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point and dtype.itemsize < 4


def _drop_frozen(teacher: Any, state: dict[str, Any], prefix: str, _metadata: object) -> None:
    for name in teacher.frozen:
        state.pop(f"{prefix}averaged.{name}", None)


def _put_frozen_back(teacher: Any, state: dict[str, Any], prefix: str, *_: object) -> None:
    # strict loading asks for every name; the teacher's own frozen tensors are the answer
    for name in teacher.frozen:
        state.setdefault(f"{prefix}averaged.{name}", teacher.averaged.get_parameter(name))
