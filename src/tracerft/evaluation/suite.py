"""Models and splits to predictions and metrics; images and heads are made once for all that asks for them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracerft.data.suite import Split
from tracerft.evaluation.groups import summarise_groups
from tracerft.evaluation.metrics import summarise
from tracerft.evaluation.points import Point
from tracerft.evaluation.retrieval import retrieval_recall
from tracerft.models.head import class_head, digest
from tracerft.models.modes import evaluating
from tracerft.models.weights import save_tensors
from tracerft.models.zero_shot import encode_captions, similarity_logits, zero_shot_head

Tokenize = Callable[[Sequence[str]], Tensor]
Models = Mapping[str, nn.Module]
Scored = tuple[dict[str, Any], dict[str, Tensor]]  # metrics, and what to keep


class Predictor:
    """What some models say of some splits.

    Each image is decoded once for all models and embedded once by each; splits that ask other things of the same
    images or classes share embeddings and heads.

    Args:
        models: by name.
        tokenize: captions to token ids.
    """

    def __init__(self, models: Models, tokenize: Tokenize) -> None:
        self.models, self.tokenize = models, tokenize
        self._images: dict[int, tuple[object, dict[str, Tensor]]] = {}  # the object is kept, so its id stays its own
        self._heads: dict[tuple[str, tuple[tuple[str, ...], ...]], Tensor] = {}

    @torch.no_grad()
    def images(self, split: Split) -> dict[str, Tensor]:
        """Unit-norm float32 image embeddings ``(n, D)`` of every model, on the CPU."""
        if id(split.images) in self._images:
            return self._images[id(split.images)][1]
        rows: dict[str, list[Tensor]] = {name: [] for name in self.models}
        with evaluating(*(model for model in self.models.values() if not isinstance(model, Point))):
            for images in split.images.image_batches():
                for name, model in self.models.items():
                    device = next(model.parameters()).device
                    embedded = model.encode_image(images.to(device), normalize=False)  # type: ignore[operator]
                    rows[name].append(F.normalize(embedded.float(), dim=-1).cpu())
        found = {name: torch.cat(parts) for name, parts in rows.items()}
        self._images[id(split.images)] = (split.images, found)
        return found

    @torch.no_grad()
    def logits(self, name: str, split: Split) -> Tensor:
        """Logits ``(n, C)`` in float32 on the CPU: zero-shot with the model's own scale and bias.

        A model with a trained head answers with it where the split asks for the classes that the head was trained on.
        """
        trained, image = class_head(self.models[name]), self.images(split)[name]
        if trained is not None and trained.prompts == digest(split.prompts):
            logits: Tensor = trained(image.to(trained.weight.device)).cpu()
        else:
            head = self._zero_shot(name, split)
            logits = similarity_logits(self.models[name], image.to(head.device), head).cpu()
        return logits if split.logit_map is None else split.logit_map(logits)

    def _zero_shot(self, name: str, split: Split) -> Tensor:
        key = (name, tuple(tuple(of_class) for of_class in split.prompts))
        if key not in self._heads:
            self._heads[key] = zero_shot_head(self.models[name], self.tokenize, split.prompts)
        return self._heads[key]

    def score(self, name: str, split: Split) -> Scored:
        """Metrics of one model on one split: by class where there are labels, else by retrieval."""
        if split.labels is None:
            image = self.images(split)[name]
            text = encode_captions(self.models[name], self.tokenize, [prompt for (prompt,) in split.prompts]).cpu()
            recall = retrieval_recall(image, text, split.positives or [])
            return {"n": len(image), **recall}, {"image": image, "text": text}
        logits, labels = self.logits(name, split), torch.from_numpy(split.labels)
        metrics: dict[str, Any] = dict(summarise(logits, labels))
        if split.groups is not None:
            metrics |= summarise_groups(logits, labels, split.groups, ignored=split.ignored_groups)
        if split.metric != "top1":
            metrics["metric"] = split.metric
        return metrics, {"logits": logits, "labels": labels}


def scores(
    models: Models, splits: Mapping[str, Split], tokenize: Tokenize, predictions: Path | None
) -> Iterator[tuple[str, str, Scored]]:
    """Split, model, and what `Predictor.score` gives, one after the other; the last is kept below ``predictions``."""
    predictor = Predictor(models, tokenize)
    for split_name, split in splits.items():
        for name in models:
            scored = predictor.score(name, split)
            if predictions is not None:
                (predictions / name).mkdir(parents=True, exist_ok=True)
                save_tensors(predictions / name / f"{split_name}.safetensors", scored[1])
            yield split_name, name, scored


def evaluate_models(
    models: Models,
    splits: Mapping[str, Split],
    tokenize: Tokenize,
    predictions: Path | None = None,
) -> dict[str, dict[str, Any]]:
    """Metrics of every model on every split.

    Args:
        models: by name, such as ``pretrained``, ``student``, ``teacher``.
        splits: by name, such as ``id``.
        tokenize: captions to token ids.
        predictions: where to keep logits and labels, or embeddings for retrieval
            (``<model>/<split>.safetensors``); ``None`` for nowhere.

    Returns:
        ``{model: {split: fields of record.json}}``.
    """
    results: dict[str, dict[str, Any]] = {name: {} for name in models}
    for split, name, (metrics, _) in scores(models, splits, tokenize, predictions):
        results[name][split] = metrics
    return results
