"""How far teacher and student are apart while training goes on (Figures 5 and 6)."""

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
