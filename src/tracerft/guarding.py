"""The guard against forgetting: guard sets measured while a run trains, and a point proposed when it ends."""

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from tracerft.averaging import interpolate
from tracerft.config import FinetuneConfig
from tracerft.data.subset import drawn, part_of
from tracerft.data.suite import Split, Suite
from tracerft.errors import ArgumentError
from tracerft.evaluation.front import Measured, Scores, means, measured, propose
from tracerft.evaluation.guard import ROUNDING, text_structure
from tracerft.evaluation.suite import Predictor, Tokenize
from tracerft.models.encoder import LoadedModel
from tracerft.models.head import class_head, match_head
from tracerft.models.zero_shot import encode_captions
from tracerft.sources import Parts, is_digits, run_suite

ALPHAS = tuple(i / 10 for i in range(1, 11))
AGREEMENT, STRUCTURE = "agreement", "text_structure"


@dataclass(frozen=True)
class Proposal:
    """The proposed model, and the entry ``guard`` of the run's record."""

    model: nn.Module
    entry: dict[str, Any]


class Guard:
    """Guard sets of one run; what it measures depends on the weights alone.

    Without sets it guards what needs no labels: ``agreement``, the share of held-out images for which a model finds the
    same class (or caption) likeliest as the pretrained model did, right or wrong; and ``text_structure``, see
    `tracerft.evaluation.guard.text_structure`, of the first caption of each class. A mistake that finetuning mends
    lowers the agreement too.

    Args:
        sets: by name, cut to as many images as are looked at; empty for the built-in guard.
        held_out: images of the finetuned task that are not trained on; the choice is made on them.
        pretrained: the start.
        tokenize: captions to token ids.
        max_drop: points that a guard set may lose; ``None`` for no bound, and no warnings.
        rate: points of the finetuned task that one point of the mean of the guard sets is worth; ``None`` for 0.
        samples: images, and captions, that the built-in guard looks at.
        facts: goes into the record's entry as it is.
    """

    def __init__(
        self,
        sets: Mapping[str, Split],
        held_out: Split,
        pretrained: nn.Module,
        tokenize: Tokenize,
        *,
        max_drop: float | None,
        rate: float | None = None,
        samples: int,
        facts: Mapping[str, Any],
    ) -> None:
        self.sets, self.held_out, self.pretrained, self.tokenize = sets, held_out, pretrained, tokenize
        self.max_drop, self.rate, self.facts = max_drop, rate, facts
        self._warned: set[str] = set()
        self._sample = part_of(held_out, samples, "guard held-out")
        captions = list(dict.fromkeys(of_class[0] for of_class in held_out.prompts))
        self._captions = [captions[i] for i in drawn(len(captions), samples, "guard captions")]

    def probe(self, step: int, models: Mapping[str, nn.Module]) -> dict[str, float]:
        """Values of models while they train, as ``guard_<model>_<set>``; warns of the student, once a set."""
        found = {name: means(self._scores(model)) for name, model in models.items()}
        for name, value in found.get("student", {}).items():
            self._warn(step, name, value)
        return {f"guard_{name}_{of}": value for name, values in found.items() for of, value in values.items()}

    def _warn(self, step: int, name: str, value: float) -> None:
        if self.max_drop is None:
            return
        start = means(self._start)[name]
        drop = 100 * (start - value)
        if drop <= self.max_drop + ROUNDING or name in self._warned:
            return
        self._warned.add(name)
        warnings.warn(
            f"step {step}: guard set {name} of the student is {drop:.1f} points below the pretrained model "
            f"({100 * start:.1f} to {100 * value:.1f}), more than guard.max_drop {self.max_drop:g}; the run goes on "
            "and proposes a point that keeps it; a lower train.lr forgets less",
            UserWarning,
            stacklevel=2,
        )

    @cached_property
    def _start(self) -> Scores:
        return self._scores(self.pretrained)

    @cached_property
    def _start_answers(self) -> tuple[Tensor, Tensor]:
        return self._answers(self.pretrained)

    def _scores(self, model: nn.Module) -> Scores:
        if self.sets:
            predictor = Predictor({"": model}, self.tokenize)
            return {name: right(predictor, split) for name, split in self.sets.items()}
        (guesses, text), (start_guesses, start_text) = self._answers(model), self._start_answers
        kept = torch.tensor([text_structure(text, start_text)], dtype=torch.float64)
        return {AGREEMENT: guesses == start_guesses, STRUCTURE: kept}

    def _answers(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """Of the built-in guard: likeliest prompt ``(n,)`` of each image, and text embeddings ``(C, D)``."""
        guesses = Predictor({"": model}, self.tokenize).logits("", self._sample).argmax(1)
        return guesses, encode_captions(model, self.tokenize, self._captions).cpu()

    def propose(self, ends: Mapping[str, nn.Module]) -> Proposal:
        """Measure the lines from the start to each end, and choose.

        Args:
            ends: what came out of the run, adapters merged, by name.
        """
        starts = {name: _with_head(self.pretrained, end) for name, end in ends.items()}
        front = [self._measured("pretrained", 0.0, self.pretrained)]
        for name, end in ends.items():
            front += [self._measured(name, alpha, interpolate(starts[name], end, alpha)) for alpha in ALPHAS]
        point, entry = propose(front, self.max_drop, self.rate)
        model = self.pretrained
        if point.alpha > 0:
            model = interpolate(starts[point.model], ends[point.model], point.alpha)
        return Proposal(model, {**entry, **self.facts, "sets": self._described(front[0].scores)})

    def _measured(self, name: str, alpha: float, model: nn.Module) -> Measured:
        hits = right(Predictor({"": model}, self.tokenize), self.held_out)
        return measured(name, alpha, hits, self._scores(model))

    def _described(self, scores: Scores) -> dict[str, Any]:
        """Size of each guard set, and what its value is."""
        kinds = {
            name: "top-1 accuracy" if split.labels is not None else "image-to-text recall at 1"
            for name, split in self.sets.items()
        } or {
            AGREEMENT: "share of held-out images answered as by the pretrained model, right or wrong",
            STRUCTURE: "1 - mean change of the cosine of two captions of classes",
        }
        sizes = {name: len(of) for name, of in scores.items()} | {STRUCTURE: len(self._captions)}
        return {name: {"n": sizes[name], "value": kind} for name, kind in kinds.items()}


def read_guard(config: FinetuneConfig, loaded: LoadedModel, parts: Parts, pretrained: nn.Module) -> Guard | None:
    """The guard that a configuration asks for; ``None`` without ``guard.max_drop`` and ``guard.rate``.

    Raises:
        TracerftError: one line, if nothing is held out to choose on, or the suite names no shift.
    """
    wanted, suite = config.guard, parts.suite
    if wanted.max_drop is None and wanted.rate is None:
        return None
    split, held_out = _held_out(config, suite)
    whole: Mapping[str, Split] = {}
    if wanted.suite is not None:
        whole = run_suite(config, loaded, wanted.suite).shifts
        if not whole:
            raise ArgumentError(
                f"`guard.suite` must name at least one shift to guard; got {wanted.suite}, which names none; write "
                "shifts: {NAME: {data: FOLDER}} there, or leave it out for a guard without labels"
            )
    seen = {of.sha256 for of in (held_out, *whole.values())}
    reported = [name for name, of in suite.splits().items() if not name.startswith("select-") and of.sha256 in seen]
    return Guard(
        {name: part_of(of, wanted.samples, f"guard {name}") for name, of in whole.items()},
        held_out,
        pretrained,
        loaded.tokenize,
        max_drop=wanted.max_drop,
        rate=wanted.rate,
        samples=wanted.samples,
        facts={"held_out": {"split": split, "n": len(held_out)}, "also_reported": reported},
    )


def _held_out(config: FinetuneConfig, suite: Suite) -> tuple[str, Split]:
    """Name and images to choose on; without a suite, what is held out is also what is reported as ``id``."""
    if "id" in suite.selection:
        return "select-id", suite.selection["id"]
    if config.suite is None and not is_digits(config.data):
        return "id", suite.id
    raise ArgumentError(
        f"`guard` chooses on held-out images; got hold_out {config.hold_out:g}, which keeps none out; set "
        "hold_out to 0.1"
    )


@torch.no_grad()
def right(predictor: Predictor, split: Split) -> Tensor:
    """``(n,)`` bool: the likeliest class is the image's; without labels, the likeliest caption is one of its own.

    Args:
        predictor: of one model, called ``""``.
        split: n images.
    """
    guesses = predictor.logits("", split).argmax(1)
    if split.labels is not None:
        return guesses == torch.from_numpy(split.labels)
    return torch.tensor([g in own for g, own in zip(guesses.tolist(), split.positives or [], strict=True)])


def _with_head(start: nn.Module, end: nn.Module) -> nn.Module:
    """The start with the head that ``end`` began with; a copy, as the start is also evaluated without."""
    if class_head(end) is None:
        return start
    twin = copy.deepcopy(start)
    match_head(twin, end)
    return twin
