"""Models and splits to predictions and metrics; images are made once for all models of a call."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tracerft.data.suite import Split
from tracerft.evaluation.metrics import summarise
from tracerft.models.weights import save_tensors
from tracerft.models.zero_shot import zero_shot_head, zero_shot_logits

Tokenize = Callable[[Sequence[str]], Tensor]


@torch.no_grad()
def predict(models: Mapping[str, nn.Module], split: Split, tokenize: Tokenize) -> dict[str, Tensor]:
    """Zero-shot logits of every model on one split, with each model's own scale.

    Returns:
        ``(n, C)`` float32 logits on the CPU, by model.
    """
    captions = [[caption] for caption in split.captions]
    modes = {name: model.training for name, model in models.items()}
    for model in models.values():
        model.eval()
    heads = {name: zero_shot_head(model, tokenize, captions) for name, model in models.items()}
    logits: dict[str, list[Tensor]] = {name: [] for name in models}
    for images in split.image_batches():
        for name, model in models.items():
            on_device = images.to(heads[name].device)
            logits[name].append(zero_shot_logits(model, on_device, heads[name]).cpu())
    for name, model in models.items():
        model.train(modes[name])
    return {name: torch.cat(parts) for name, parts in logits.items()}


def evaluate_models(
    models: Mapping[str, nn.Module], splits: Mapping[str, Split], tokenize: Tokenize, predictions: Path | None = None
) -> dict[str, dict[str, Any]]:
    """Metrics of every model on every split.

    Args:
        models: by name, such as ``pretrained``, ``student``, ``teacher``.
        splits: by name, such as ``id``.
        tokenize: captions to token ids.
        predictions: where to keep logits and labels (``<model>/<split>.safetensors``), ``None`` for nowhere.

    Returns:
        ``{model: {split: fields of record.json}}``.
    """
    results: dict[str, dict[str, Any]] = {name: {} for name in models}
    for split_name, split in splits.items():
        labels = torch.from_numpy(split.labels)
        for name, logits in predict(models, split, tokenize).items():
            if predictions is not None:
                (predictions / name).mkdir(parents=True, exist_ok=True)
                save_tensors(predictions / name / f"{split_name}.safetensors", {"logits": logits, "labels": labels})
            results[name][split_name] = summarise(logits, labels)
    return results
