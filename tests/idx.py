"""MNIST's file format, written for the tests."""

from pathlib import Path

import numpy as np


def write_idx(path: Path, values: np.ndarray) -> Path:
    """Write unsigned bytes as IDX: two zeros, type 8, the number of axes, big-endian sizes, then the values."""
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    path.write_bytes(header + values.astype(np.uint8).tobytes())
    return path
