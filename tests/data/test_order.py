"""What a step trains on does not depend on who fetches it: ranks, workers, and where a run was cut.

Each sample is fetched by itself, in an order of the worker's own, and put together by this file alone; the golden
batch is the one that a single unbroken process makes in one piece.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
import torch

from tests.data.pictures import SPEC, class_set, letters
from tracerft.data import pairs
from tracerft.data.manifest import read_manifest
from tracerft.data.pairs import ImagePairs
from tracerft.data.sampling import batch_at

SEED, BATCH, STEPS = 5, 4, 10  # 12 images, three batches an epoch: four epochs
WORKERS, RANKS, CUTS = range(5), (1, 2, 4), range(STEPS)
Row = tuple[int, bytes, str, bytes]  # sample, pixels, caption, tokens


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Two classes of six small pictures."""
    return read_manifest(class_set(tmp_path_factory.mktemp("order"), each=6))


def source(manifest) -> ImagePairs:
    """A source that has drawn nothing yet, as a process that was just started has."""
    return ImagePairs(manifest, SPEC, letters, templates=("a {}", "one {}", "no {}"), seed=SEED, threads=1)


def rows(of: ImagePairs, ids: np.ndarray, epoch: int) -> list[Row]:
    """What a batch holds, sample by sample, to the bit."""
    batch = of.batch(ids, epoch)
    return [
        (int(sample), image.numpy().tobytes(), of.captions[int(caption)], tokens.numpy().tobytes())
        for sample, image, caption, tokens in zip(
            batch.sample_ids, batch.images, batch.caption_ids, batch.tokens, strict=True
        )
    ]


def unbroken(manifest) -> list[list[Row]]:
    """Every step of a run on one rank, in one piece."""
    whole = source(manifest)
    return [rows(whole, ids, epoch) for epoch, ids in (batch_at(k, SEED, len(whole), BATCH) for k in range(STEPS))]


def fetched(manifest, workers: int, ranks: int, cut: int) -> Iterator[list[Row]]:
    """The steps from ``cut`` on: each rank a process of its own that splits its share over its workers."""
    sources = [source(manifest) for _ in range(ranks)]
    shuffle = np.random.default_rng([workers, ranks, cut])  # which sample is asked for first is chance
    for step in range(cut, STEPS):
        epoch, ids = batch_at(step, SEED, len(sources[0]), BATCH)
        found: list[Row] = []
        for of, share in zip(sources, np.split(ids, ranks), strict=True):
            asked = shuffle.permutation(len(share))
            jobs = [(of, share[[place]], epoch) for place in asked]
            if workers == 0:
                made = [rows(*job)[0] for job in jobs]
            else:
                with ThreadPoolExecutor(workers) as pool:
                    made = [row for (row,) in pool.map(lambda job: rows(*job), jobs)]
            found += [made[at] for at in np.argsort(asked)]
        yield found


def differing(manifest, cases) -> list[tuple[int, int, int, int]]:
    """Workers, ranks, cut and step of every batch that is not the unbroken run's."""
    golden = unbroken(manifest)
    return [
        (workers, ranks, cut, step)
        for workers, ranks, cut in cases
        for step, batch in enumerate(fetched(manifest, workers, ranks, cut), start=cut)
        if batch != golden[step]
    ]


def test_ids_pixels_and_captions_are_those_of_the_unbroken_run(manifest):
    """0 to 4 workers, 1, 2 and 4 ranks, cut before each of 10 steps: 150 ways, one result."""
    cases = list(product(WORKERS, RANKS, CUTS))
    assert len(cases) == 150
    assert differing(manifest, cases) == []


def test_the_steps_differ(manifest):
    """Otherwise the comparison would hold for a source that gives the same batch for ever."""
    golden = unbroken(manifest)
    assert len({tuple(row[0] for row in batch) for batch in golden}) == STEPS
    crops: dict[int, set[bytes]] = {}
    captions: dict[int, set[str]] = {}
    for sample, pixels, caption, _ in (row for batch in golden for row in batch):
        crops.setdefault(sample, set()).add(pixels)
        captions.setdefault(sample, set()).add(caption)
    assert max(map(len, crops.values())) >= 4
    assert max(map(len, captions.values())) == 3


def _global_crops(monkeypatch) -> None:
    monkeypatch.setattr(pairs, "generator", lambda *key: torch.default_generator)


def _global_captions(monkeypatch) -> None:
    monkeypatch.setattr(pairs, "uniforms", lambda seed, epoch, ids, purpose: torch.rand(len(ids)).double().numpy())


def _place_in_the_batch(monkeypatch) -> None:
    keyed = pairs.uniforms
    monkeypatch.setattr(pairs, "uniforms", lambda seed, epoch, ids, what: keyed(seed, epoch, np.arange(len(ids)), what))


@pytest.mark.parametrize("spoil", [_global_crops, _global_captions, _place_in_the_batch])
def test_the_comparison_sees_randomness_that_is_not_keyed(spoil, manifest, monkeypatch):
    """Crops or captions from the global generator, or keyed by the place in the batch: each is noticed."""
    spoil(monkeypatch)
    torch.manual_seed(0)
    cases = [(0, 1, 3), (2, 2, 0), (4, 4, 7)]
    assert {case[:3] for case in differing(manifest, cases)} == set(cases)


def test_the_comparison_sees_a_wrong_order(manifest, monkeypatch):
    """Ids that restart with the process, as after a resume that forgets its position."""
    golden = unbroken(manifest)
    keyed = batch_at
    monkeypatch.setitem(globals(), "batch_at", lambda step, *rest: keyed(max(step - 3, 0), *rest))
    assert [batch == golden[step] for step, batch in enumerate(fetched(manifest, 1, 2, 3), start=3)] == [False] * 7
