"""Digits in IDX files and a very small model, so that whole runs take a fraction of a second."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.idx import write_idx
from tracerft.models.tiny import TinyConfig, TinyDualEncoder
from tracerft.models.weights import save_model

SMALL = TinyConfig(width=16, layers=1, heads=2, text_layers=1, embed_dim=8)
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory) -> Path:
    """MNIST's four IDX files with 200 training and 60 test digits: one noisy pattern a class."""
    folder = tmp_path_factory.mktemp("idx")
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 200, (10, 28, 28))
    for prefix, count in (("train", 200), ("t10k", 60)):
        labels = np.arange(count) * 7 % 10
        pixels = np.clip(patterns[labels] + rng.integers(0, 56, (count, 28, 28)), 0, 255)
        write_idx(folder / f"{prefix}-images-idx3-ubyte", pixels)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", labels)
    return folder


@pytest.fixture(scope="session")
def small_model(tmp_path_factory) -> Path:
    """A model folder with `SMALL` and its random weights."""
    return save_model(TinyDualEncoder(SMALL, seed=3), tmp_path_factory.mktemp("model") / "small")
