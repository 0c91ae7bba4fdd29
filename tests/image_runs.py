"""Whole runs on pictures made on the spot, with a small open_clip model: three steps."""

from pathlib import Path
from typing import Any

import tracerft
from tests.data.pictures import class_set, put
from tests.models.small import folder as small_folder
from tracerft.api import Run
from tracerft.config import ColumnsConfig, FinetuneConfig, LoraConfig, LossConfig, TrainConfig, group

CLASSES = ("cat", "dog", "tea pot")
TRAIN = {
    "steps": 3,
    "batch_size": 6,
    "lr": 1e-3,
    "warmup_steps": 1,
    "log_every": 1,
    "checkpoint_every": 1,
    "device": "cpu",
}


def make_data(folder: Path) -> Path:
    """``photos``: 3 classes of 6; ``pairs.csv``: 18 distinct captions; ``shifts.yaml``: ``photos-test`` and shifts."""
    class_set(folder / "photos", CLASSES, 6)
    class_set(folder / "photos-test", CLASSES, 4)
    class_set(folder / "sketches", CLASSES[1:], 3)
    captions(folder / "pairs.csv", [f"picture number {i}" for i in range(18)])
    captions(folder / "told.csv", [f"a {CLASSES[i % 3]} of kind {i % 6}" for i in range(12)])
    (folder / "shifts.yaml").write_text(
        "id: {data: photos-test}\nshifts:\n  sketches: {data: sketches, metric: macro_f1}\n  told: {data: told.csv}\n"
    )
    return folder


def captions(table: Path, texts: list[str]) -> Path:
    """A table with a picture for each caption."""
    rows = ["image,caption"]
    for i, text in enumerate(texts):
        put(table.parent / table.stem / f"{i}.png", seed=500 + i)
        rows.append(f"{table.stem}/{i}.png,{text}")
    table.write_text("\n".join(rows) + "\n")
    return table


def config(data: Path, kind: str = "vit", **options: Any) -> FinetuneConfig:
    """The configuration of `finetune` here."""
    groups = {"train": TrainConfig, "loss": LossConfig, "lora": LoraConfig, "columns": ColumnsConfig}
    options["train"] = TRAIN | options.get("train", {})
    options |= {name: group(of, options[name], name) for name, of in groups.items() if name in options}
    return FinetuneConfig(**{"model": small_folder(kind), "data": str(data), "out": "never"} | options)


def finetune(data: Path, out: Path, kind: str = "vit", *, train: dict[str, Any] | None = None, **options: Any) -> Run:
    """`tracerft.finetune` of a small open_clip model with `TRAIN` as the defaults."""
    return tracerft.finetune(small_folder(kind), data=data, out=out, train=TRAIN | (train or {}), **options)
