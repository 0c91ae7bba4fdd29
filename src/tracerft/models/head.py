"""A trained classifier on a dual encoder's image tower: the zero-shot head, made weights that move.

Legend: C classes, D embedding size, s the exponentiated logit scale.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tracerft.errors import ArgumentError, DataError, StateError
from tracerft.models.zero_shot import zero_shot_head

FILE = "class_head.safetensors"
Prompts = Sequence[Sequence[str]]


class ClassHead(nn.Module):
    """Logits ``scale * image weight^T + bias`` of unit-norm image embeddings.

    Args:
        weight: ``(C, D)``; a copy of it starts the training and stays as ``start``, the head of the pretrained model.
        scale: fixed factor; 1 where s is folded into the weight.
        bias: whether a bias of C zeros trains beside the weight.
        prompts: `digest` of the class prompts that the head answers to.
    """

    start: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, *, scale: float = 1.0, bias: bool = True, prompts: str = "") -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = nn.Parameter(weight.new_zeros(len(weight))) if bias else None
        self.register_buffer("start", weight.detach().clone())
        self.register_buffer("scale", torch.tensor(float(scale)))
        self.prompts = prompts

    def forward(self, image: Tensor) -> Tensor:
        """``(N, D)`` unit-norm embeddings to ``(N, C)`` logits in float32."""
        logits = self.scale * image.float() @ self.weight.float().T
        return logits if self.bias is None else logits + self.bias.float()

    def pretrained(self) -> "ClassHead":
        """The head before training."""
        return ClassHead(self.start, scale=float(self.scale), bias=self.bias is not None, prompts=self.prompts)


def digest(prompts: Prompts) -> str:
    """Hash of class prompts in their order, by which a head knows the classes it was trained on."""
    return hashlib.sha256(json.dumps([list(of_class) for of_class in prompts]).encode()).hexdigest()


def attach_head(
    model: nn.Module, tokenize: Callable[[Sequence[str]], Tensor], prompts: Prompts, *, folded: bool = True
) -> None:
    """Give a dual encoder a trainable head ``class_head``, in place: its own zero-shot classifier.

    Args:
        model: a dual encoder; what it says of an image does not change.
        tokenize: captions to token ids.
        prompts: one or more captions for each of C classes, in label order.
        folded: s inside the weight, with a bias (WiSE-FT, FLYP); else a unit-norm weight with s outside and frozen,
            without bias (Lipsum-FT).

    Raises:
        StateError: if it has a head already.
    """
    if class_head(model) is not None:
        raise StateError("`model` has a class head already; load the pretrained model again")
    rows = zero_shot_head(model, tokenize, prompts)
    scale = float(model.logit_scale.detach().exp())  # type: ignore[operator]
    kind = {"bias": True} if folded else {"bias": False, "scale": scale}
    model.class_head = ClassHead(scale * rows if folded else rows, prompts=digest(prompts), **kind)


def class_head(model: nn.Module) -> ClassHead | None:
    """The head of a model, if it has one."""
    found = getattr(model, "class_head", None)
    return found if isinstance(found, ClassHead) else None


def need_head(model: nn.Module) -> ClassHead:
    """The head of a model.

    Raises:
        ArgumentError: if it has none.
    """
    head = class_head(model)
    if head is None:
        raise ArgumentError(
            "`model` needs a class head for a method with cross-entropy; got none; call "
            "tracerft.models.head.attach_head(model, tokenize, prompts) first"
        )
    return head


def match_head(start: nn.Module, end: nn.Module) -> None:
    """Give ``start`` the head that ``end`` began with, so that both have the same tensors; in place."""
    mine, head = class_head(start), class_head(end)
    if head is None:
        if mine is not None:  # a contrastive method went on from a classifier
            del start.class_head
    elif mine is None or mine.prompts != head.prompts or mine.state_dict().keys() != head.state_dict().keys():
        start.class_head = head.pretrained().to(head.weight.device)


@contextmanager
def head_aside(model: nn.Module) -> Iterator[ClassHead | None]:
    """Take the head off a model while the dual encoder alone is written."""
    head = class_head(model)
    if head is not None:
        del model.class_head
    try:
        yield head
    finally:
        if head is not None:
            model.class_head = head


def save_head(head: ClassHead, folder: Path) -> None:
    """Write a head beside its model."""
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in head.state_dict().items()}
    save_file(tensors, folder / FILE, metadata={"prompts": head.prompts})


def load_head(folder: Path) -> ClassHead | None:
    """The head in a model's folder; ``None`` if there is none.

    Raises:
        DataError: if the file is not one.
    """
    if not (folder / FILE).is_file():
        return None
    try:
        with safe_open(folder / FILE, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
            prompts = (file.metadata() or {})["prompts"]
        head = ClassHead(tensors["start"], bias="bias" in tensors, prompts=prompts)
        head.load_state_dict(tensors)
        return head
    except (SafetensorError, OSError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{folder / FILE}: not a class head ({reason}); restore it or train again") from error
