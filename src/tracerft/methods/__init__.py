"""Finetuning methods, and the METHODS table that the command and the documentation are printed from.

Owns what a method optimises. May import: averaging, losses, models, types, errors.
"""

from functools import partial

from tracerft.averaging import EMATeacher, FrozenTeacher, WMATeacher
from tracerft.methods.base import Ingredients, Method, MethodInfo
from tracerft.methods.contrastive import Contrastive, WiseFT
from tracerft.methods.self_distillation import SelfDistillation

__all__ = ["METHODS", "Ingredients", "Method", "MethodInfo", "list_methods"]


def _flyp(i: Ingredients) -> Method:
    return Contrastive("flyp", targets=i.loss.targets, cross_frobenius_weight=i.cross_frobenius)


def _l2_sp(i: Ingredients) -> Method:
    return Contrastive(
        "contrastive_l2_sp",
        targets=i.loss.targets,
        l2_sp_weight=i.l2_sp,
        cross_frobenius_weight=i.cross_frobenius,
    )


def _wise_ft(i: Ingredients) -> Method:
    return WiseFT(alpha=i.alpha, targets=i.loss.targets, cross_frobenius_weight=i.cross_frobenius)


def _distil(name: str, i: Ingredients) -> Method:
    teachers = {
        "sd_static": lambda model, steps: FrozenTeacher(model),
        "sd_ema": lambda model, steps: EMATeacher(
            model, i.momentum, total_steps=steps, update_every=i.update_every, weighting=i.weighting
        ),
        "tracer": lambda model, steps: WMATeacher(model, steps, i.kernel, i.update_every, i.weighting),
    }
    return SelfDistillation(name, loss=i.loss, teacher=teachers[name], cross_frobenius_weight=i.cross_frobenius)


_CONTRASTIVE = ("loss.targets", "loss.cross_frobenius")
_DISTILLATION = (*_CONTRASTIVE, "loss.sd_weight", "loss.fd", "loss.crd", "loss.icl", "loss.cross_kd")
_CLOCK = ("teacher.update_every", "teacher.weighting")

METHODS: dict[str, MethodInfo] = {
    info.name: info
    for info in (
        MethodInfo(
            name="flyp",
            paper="Goyal, Kumar, Garg, Kolter, Raghunathan, CVPR 2023, arXiv 2212.00638",
            year=2023,
            summary="Direct contrastive finetuning: the pretraining loss on the new pairs, nothing else.",
            cost="3 (1 + tau)",
            extra_data="none",
            uses=_CONTRASTIVE,
            build=_flyp,
        ),
        MethodInfo(
            name="contrastive_l2_sp",
            paper="Li, Grandvalet, Davoine, ICML 2018, arXiv 1802.01483",
            year=2018,
            summary="Direct finetuning with a quadratic pull of the weights towards the pretrained ones.",
            cost="3 (1 + tau)",
            extra_data="none",
            uses=(*_CONTRASTIVE, "loss.l2_sp"),
            build=_l2_sp,
        ),
        MethodInfo(
            name="wise_ft",
            paper="Wortsman et al., CVPR 2022, arXiv 2109.01903",
            year=2022,
            summary="Direct finetuning, then a straight line in weight space between pretrained and finetuned.",
            cost="3 (1 + tau)",
            extra_data="none",
            uses=(*_CONTRASTIVE, "teacher.alpha"),
            build=_wise_ft,
        ),
        MethodInfo(
            name="sd_static",
            paper="Asadollahzadeh, Liu, Leckie, Erfani, ICML 2026, arXiv 2605.29380 (control)",
            year=2026,
            summary="The four distillation losses of TRACER against the frozen pretrained model.",
            cost="4 (1 + tau)",
            extra_data="none",
            uses=_DISTILLATION,
            build=partial(_distil, "sd_static"),
        ),
        MethodInfo(
            name="sd_ema",
            paper="Tarvainen, Valpola, NeurIPS 2017, arXiv 1703.01780 (teacher)",
            year=2017,
            summary="The four distillation losses of TRACER against an exponential moving average of the student.",
            cost="4 (1 + tau)",
            extra_data="none",
            uses=(*_DISTILLATION, *_CLOCK, "teacher.momentum"),
            build=partial(_distil, "sd_ema"),
        ),
        MethodInfo(
            name="tracer",
            paper="Asadollahzadeh, Liu, Leckie, Erfani, ICML 2026, arXiv 2605.29380",
            year=2026,
            summary="The four distillation losses against the weighted moving average of the whole trajectory.",
            cost="4 (1 + tau)",
            extra_data="none",
            uses=(*_DISTILLATION, *_CLOCK, "teacher.a", "teacher.b"),
            build=partial(_distil, "tracer"),
        ),
    )
}


def list_methods() -> list[dict[str, str | int]]:
    """Name, paper, year, summary, cost and extra data of every method, in the table's order."""
    keys = ("name", "paper", "year", "summary", "cost", "extra_data")
    return [{key: getattr(info, key) for key in keys} for info in METHODS.values()]
