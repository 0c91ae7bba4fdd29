"""Made-up predictions of a run, as the evaluation keeps them. No number here is a result."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from tests.reports.example import HOSTILE, record, scores, write_run

SIZES = {"id": 600, "far": 400, "near": 900, "select-id": 50}


def logits(model: str, split: str, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits ``(n, C)`` and labels ``(n,)``; the student is sure and forgets the first classes off ``id``."""
    rng = np.random.default_rng([len(model), len(split), SIZES[split]])
    labels = np.arange(SIZES[split]) % num_classes
    values = rng.normal(size=(len(labels), num_classes)).astype(np.float32)
    values[np.arange(len(labels)), labels] += 3.0
    if model == "student" and split != "id":
        values[labels < 3, 3] += 9.0
    return values, labels.astype(np.int64)


def write_predicted_run(folder: Path, classes: tuple[str, ...] = (*HOSTILE, "last")) -> Path:
    """A finished run with predictions of three models on ``id``, two shifts and a selection split."""
    write_run(folder)
    models = ("pretrained", "student", "teacher")
    value: dict[str, Any] = record()
    value["classes"] = list(classes)
    value["results"] = {model: {split: scores(0.7) for split in SIZES} for model in models}
    (folder / "record.json").write_text(json.dumps(value), encoding="utf-8")
    for model in models:
        (folder / "predictions" / model).mkdir(parents=True)
        for split in SIZES:
            values, labels = logits(model, split, len(classes))
            save_file({"logits": values, "labels": labels}, folder / "predictions" / model / f"{split}.safetensors")
    return folder


def write_examples(folder: Path, split: str, places: list[int], **changed: Any) -> Path:
    """Thumbnails at these positions, each of one grey; ``changed`` replaces tensors of the file."""
    jpegs = []
    for place in places:
        out = io.BytesIO()
        Image.new("RGB", (48, 32), (place % 256,) * 3).save(out, "JPEG")
        jpegs.append(np.frombuffer(out.getvalue(), np.uint8))
    tensors = {
        "index": np.array(places, np.int64),
        "sizes": np.array([len(jpeg) for jpeg in jpegs], np.int64),
        "jpeg": np.concatenate([np.empty(0, np.uint8), *jpegs]),
    }
    path = folder / "predictions" / "examples" / f"{split}.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_file(tensors | changed, path)
    return path
