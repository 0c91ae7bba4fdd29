"""The published benchmarks by name: what a suite file may call a ``builder``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracerft.data import imagenet, wilds
from tracerft.data.listed import ListedSplit
from tracerft.errors import ArgumentError, one_of


@dataclass(frozen=True)
class Benchmark:
    """One line of the table.

    Args:
        build: folder (and split, if there are any) to `ListedSplit`.
        splits: names of its splits; empty if the folder is the split.
        grouped: whether its images come with groups.
    """

    build: Callable[..., ListedSplit]
    splits: tuple[str, ...] = ()
    grouped: bool = False


BENCHMARKS: Mapping[str, Benchmark] = {
    "imagenet": Benchmark(imagenet.imagenet_val),
    "imagenet-v2": Benchmark(imagenet.imagenet_v2),
    "imagenet-r": Benchmark(imagenet.imagenet_r),
    "imagenet-a": Benchmark(imagenet.imagenet_a),
    "imagenet-sketch": Benchmark(imagenet.imagenet_sketch),
    "objectnet": Benchmark(imagenet.objectnet),
    "iwildcam": Benchmark(wilds.iwildcam, wilds.SPLITS),
    "fmow": Benchmark(wilds.fmow, wilds.SPLITS, grouped=True),
}


def build_benchmark(builder: str, folder: Path, split: str | None = None) -> ListedSplit:
    """List the images of a published benchmark.

    Args:
        builder: a name of `BENCHMARKS`.
        folder: where it is unpacked.
        split: for iwildcam and fmow; ``test`` by default.

    Raises:
        ArgumentError: for a name that does not exist, or a split of a benchmark that has none.
        DataError: if the folder is not as published.
    """
    one_of("builder", builder, tuple(BENCHMARKS))
    benchmark = BENCHMARKS[builder]
    if split is not None and not benchmark.splits:
        raise ArgumentError(f"`split` is for iwildcam and fmow; {builder} is one folder; got {split!r}; leave it out")
    options: dict[str, Any] = {} if split is None else {"split": split}
    return benchmark.build(Path(folder), **options)
