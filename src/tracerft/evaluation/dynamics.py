"""How far teacher and student are apart while training goes on (Figures 5 and 6), and how far each layer moved."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tracerft.evaluation.suite import Tokenize
from tracerft.models.effective import effective
from tracerft.models.modes import evaluating
from tracerft.models.zero_shot import zero_shot_head, zero_shot_logits


@torch.no_grad()
def teacher_student_gap(
    teacher: nn.Module, student: nn.Module, images: Tensor, prompts: Sequence[Sequence[str]], tokenize: Tokenize
) -> dict[str, float]:
    """Distance of the two in weights and in predictions on fixed images.

    Args:
        teacher: the averaged model.
        student: the model that trains, with adapters or without; parameters are matched by name.
        images: ``(N, 3, H, W)`` probe images.
        prompts: captions of each class.
        tokenize: captions to token ids.

    Returns:
        ``gap_weights`` (L2 norm of the weight difference), ``gap_kl`` (mean KL(teacher || student), nats),
        ``teacher_entropy`` (nats) and ``teacher_confidence`` (mean largest probability).
    """
    ours = dict(effective(student).named_parameters())
    squares = [(p.double() - ours[name].double()).square().sum() for name, p in teacher.named_parameters()]
    with evaluating(student):
        log_p, log_q = (
            torch.log_softmax(zero_shot_logits(model, images, zero_shot_head(model, tokenize, prompts)), 1)
            for model in (teacher, student)
        )
    p = log_p.exp()
    return {
        "gap_weights": float(torch.stack(squares).sum().sqrt()),
        "gap_kl": float((p * (log_p - log_q)).sum(1).mean().clamp_min(0.0)),
        "teacher_entropy": float(-(p * log_p).sum(1).mean()),
        "teacher_confidence": float(p.amax(1).mean()),
    }


def drift(start: nn.Module, end: nn.Module) -> dict[str, float]:
    """How far training moved the weights of each layer, |W - W_0| / |W_0| with norms over all of a layer's tensors.

    Args:
        start: the pretrained model.
        end: what came out, with adapters or without.

    Returns:
        By layer, in the model's order. A layer is what shares a name up to its first number, or else up to its last
        dot. Left out are layers whose pretrained weights are all zero, and tensors that the start does not have, as of
        a head of classes.
    """
    before = dict(effective(start).named_parameters())
    squares: dict[str, list[Tensor]] = {}
    for name, tensor in effective(end).named_parameters():
        if name in before:
            origin = before[name].detach().double()
            moved = (tensor.detach().to(origin.device).double() - origin).square().sum()
            squares.setdefault(_layer(name), []).append(torch.stack([moved, origin.square().sum()]))
    sums = {layer: torch.stack(parts).sum(0).tolist() for layer, parts in squares.items()}
    return {layer: (moved / origin) ** 0.5 for layer, (moved, origin) in sums.items() if origin > 0.0}


def _layer(name: str) -> str:
    """``visual.transformer.resblocks.3.attn.in_proj_weight`` is of ``visual.transformer.resblocks.3``."""
    numbered = re.match(r".*?\.\d+(?=\.)", name)
    return numbered.group() if numbered else name.rpartition(".")[0] or name
