"""Models and splits to predictions and metrics; images are made once for all models of a call."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracerft.data.suite import Split
from tracerft.evaluation.groups import summarise_groups
from tracerft.evaluation.metrics import summarise
from tracerft.evaluation.retrieval import retrieval_recall
from tracerft.models.weights import save_tensors
from tracerft.models.zero_shot import encode_captions, similarity_logits, zero_shot_head

Tokenize = Callable[[Sequence[str]], Tensor]
Models = Mapping[str, nn.Module]


@torch.no_grad()
def embed_images(models: Models, split: Split) -> dict[str, Tensor]:
    """Unit-norm float32 image embeddings ``(n, D)`` of every model, on the CPU; each image is decoded once."""
    modes = {name: model.training for name, model in models.items()}
    rows: dict[str, list[Tensor]] = {name: [] for name in models}
    for model in models.values():
        model.eval()
    for images in split.images.image_batches():
        for name, model in models.items():
            device = next(model.parameters()).device
            embedded = model.encode_image(images.to(device), normalize=False)  # type: ignore[operator]
            rows[name].append(F.normalize(embedded.float(), dim=-1).cpu())
    for name, model in models.items():
        model.train(modes[name])
    return {name: torch.cat(parts) for name, parts in rows.items()}


def predict(
    models: Models, split: Split, tokenize: Tokenize, images: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Zero-shot logits ``(n, C)`` of every model, with its own scale and bias, in float32 on the CPU.

    ``images`` are the embeddings of `embed_images`, if they are at hand.
    """
    found = {}
    for name, image in (images or embed_images(models, split)).items():
        head = zero_shot_head(models[name], tokenize, split.prompts)
        logits = similarity_logits(models[name], image.to(head.device), head).cpu()
        found[name] = logits if split.logit_map is None else split.logit_map(logits)
    return found


def evaluate_models(
    models: Models, splits: Mapping[str, Split], tokenize: Tokenize, predictions: Path | None = None
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
    embedded: dict[int, dict[str, Tensor]] = {}  # splits that ask other things of the same images share them
    for split_name, split in splits.items():
        if id(split.images) not in embedded:
            embedded[id(split.images)] = embed_images(models, split)
        images = embedded[id(split.images)]
        score = _classify if split.labels is not None else _retrieve
        for name, (metrics, tensors) in score(models, split, tokenize, images).items():
            if predictions is not None:
                (predictions / name).mkdir(parents=True, exist_ok=True)
                save_tensors(predictions / name / f"{split_name}.safetensors", tensors)
            results[name][split_name] = metrics
    return results


Scored = dict[str, tuple[dict[str, Any], dict[str, Tensor]]]


def _classify(models: Models, split: Split, tokenize: Tokenize, images: Mapping[str, Tensor]) -> Scored:
    labels, found = torch.from_numpy(split.labels), {}
    for name, logits in predict(models, split, tokenize, images).items():
        metrics: dict[str, Any] = dict(summarise(logits, labels))
        if split.groups is not None:
            metrics |= summarise_groups(logits, labels, split.groups, ignored=split.ignored_groups)
        found[name] = (metrics, {"logits": logits, "labels": labels})
    return found


def _retrieve(models: Models, split: Split, tokenize: Tokenize, images: Mapping[str, Tensor]) -> Scored:
    captions, found = [prompt for (prompt,) in split.prompts], {}
    for name, image in images.items():
        text = encode_captions(models[name], tokenize, captions).cpu()
        metrics: dict[str, Any] = {"n": len(image), **retrieval_recall(image, text, split.positives or [])}
        found[name] = (metrics, {"image": image, "text": text})
    return found
