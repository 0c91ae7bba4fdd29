"""A linear classifier on frozen features, alone (linear probing) or before finetuning (LP-FT, Kumar et al. 2022)."""

import torch
from torch import nn

from tracerft.errors import ArgumentError
from tracerft.methods.base import Build, Examples, Ingredients, Method, MethodInfo
from tracerft.methods.classifier import CrossEntropy
from tracerft.models.head import need_head
from tracerft.models.linear_probe import fit_probe


class Probed(CrossEntropy):
    """`CrossEntropy` from a head that was first fitted on the pretrained features of all training images.

    Args:
        name: as in the METHODS table.
        examples: embeddings and labels by a model, see `Ingredients`.
        solver: ``sgd``, from the zero-shot head, or ``lbfgs``.
        seed: of order and of what is held out.
    """

    def __init__(self, name: str, *, examples: Examples | None, solver: str = "sgd", seed: int = 0) -> None:
        super().__init__(name)
        self._examples, self._solver, self._seed = examples, solver, seed

    def start(self, model: nn.Module, total_steps: int) -> None:
        """Fit the head; images are decoded once, without augmentation.

        Raises:
            ArgumentError: without examples.
        """
        super().start(model, total_steps)
        if self._examples is None:
            raise ArgumentError("`examples` must be given to a linear probe; got None; use tracerft.finetune")
        features, labels = self._examples(model)
        head = need_head(model)
        weight, bias = fit_probe(
            features, labels, len(head.weight), solver=self._solver, head=head.weight.detach().cpu(), seed=self._seed
        )
        with torch.no_grad():
            head.weight.copy_(weight)
            assert head.bias is not None  # for the type checker; the table gives these methods a head with a bias
            head.bias.copy_(bias)


def _build(name: str) -> Build:
    def build(i: Ingredients) -> Method:
        return Probed(name, examples=i.examples, solver=i.probe, seed=i.seed)

    return build


ROWS = (
    MethodInfo(
        name="linear_probe",
        family="cross-entropy",
        paper="Kornblith, Shlens, Le, CVPR 2019, arXiv 1805.08974; Radford et al., ICML 2021, arXiv 2103.00020",
        year=2021,
        summary="A linear classifier on the frozen image tower.",
        cost="one pass of 1",
        uses=("probe",),
        head=True,
        trains=False,
        build=_build("linear_probe"),
    ),
    MethodInfo(
        name="lp_ft",
        family="cross-entropy",
        paper="Kumar, Raghunathan, Jones, Ma, Liang, ICLR 2022, arXiv 2202.10054",
        year=2022,
        summary="A linear probe first, then cross-entropy finetuning of tower and head from there.",
        cost="3, after one pass of 1",
        uses=("probe",),
        head=True,
        shards=True,
        build=_build("lp_ft"),
    ),
)
