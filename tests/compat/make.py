"""Makes the folder of this version, once, before its release: ``python -m tests.compat.make``.

What lies in tests/compat/VERSION afterwards stays as it is for ever; later versions must read it.
"""

import contextlib
import os
import shutil
import sys
from pathlib import Path

import numpy as np

import tracerft
from tests.idx import write_idx
from tests.runs import Cut, cut_at, finetune
from tracerft.models.tiny import TinyConfig, TinyDualEncoder
from tracerft.models.weights import save_model

SMALL = TinyConfig(width=16, layers=1, heads=2, text_layers=1, embed_dim=8)
CUT = 4


def digits(folder: Path) -> None:
    """MNIST's four files with 80 training and 40 test digits: one noisy pattern a class."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 200, (10, 28, 28))
    for prefix, count in (("train", 80), ("t10k", 40)):
        labels = np.arange(count) * 7 % 10
        pixels = np.clip(patterns[labels] + rng.integers(0, 56, (count, 28, 28)), 0, 255)
        write_idx(folder / f"{prefix}-images-idx3-ubyte", pixels)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", labels)


def make(folder: Path) -> None:
    """A model, digits, a finished run and the same run cut off after `CUT` steps, all with paths below ``folder``."""
    folder.mkdir()
    os.chdir(folder)  # the runs remember their paths, which must be right wherever the folder is copied
    digits(Path("digits"))
    save_model(TinyDualEncoder(SMALL, seed=3), Path("model"))
    finetune(Path("model"), Path("digits"), Path("finished"))
    with contextlib.suppress(Cut):
        finetune(Path("model"), Path("digits"), Path("cut"), progress=cut_at(CUT))
    Path("finished/report.html").unlink()
    for large in ("finished/predictions", "finished/checkpoints"):  # `cut` has checkpoints; the rest is kept small
        shutil.rmtree(large)


if __name__ == "__main__":
    target = Path(__file__).parent / tracerft.__version__
    if target.exists():
        sys.exit(f"{target}: exists and must stay as it is; a new version makes a folder of its own")
    make(target)
