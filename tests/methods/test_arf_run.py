"""ARF as a whole run: a table with labels and captions, a pool of pairs, cut off and resumed."""

import json

import pytest

from tests.data.pictures import put
from tests.image_runs import CLASSES, captions, finetune
from tests.runs import Cut, contents, cut_at
from tracerft.errors import ArgumentError, DataError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eighteen pictures with a class and a caption each, and a pool of eight pairs."""
    folder = tmp_path_factory.mktemp("arf")
    rows = ["image,label,caption"]
    for i in range(18):
        put(folder / f"{i}.png", seed=i)
        rows.append(f"{i}.png,{CLASSES[i % 3]},picture number {i} on a table")
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    (folder / "labels.csv").write_text("\n".join(row.rpartition(",")[0] for row in rows) + "\n")
    captions(folder / "pool.csv", [f"something seen {i} times" for i in range(8)])
    return folder


def test_a_run_with_captions_and_pool_resumes_to_the_same_bytes(data, tmp_path):
    """Class prompts are the main captions; both extra losses are logged; the record names the pool."""
    options = {"method": "arf", "pool": data / "pool.csv"}
    whole = finetune(data / "table.csv", tmp_path / "whole", **options)
    first = json.loads((whole.folder / "metrics.jsonl").read_text().splitlines()[0])
    assert {"contrastive", "arf_captions", "arf_retrieved"} <= set(first)
    assert whole.record["config"]["pool"] == str(data / "pool.csv")
    assert "top1" in whole.results["student"]["id"]  # classified, not retrieved
    with pytest.raises(Cut):
        finetune(data / "table.csv", tmp_path / "cut", progress=cut_at(2), **options)
    finetune(data / "table.csv", tmp_path / "cut", resume=True, **options)
    assert contents(tmp_path / "cut") == contents(whole.folder)


def test_what_is_missing_is_told(data, tmp_path):
    """No pool, no captions, neither; and a pool that an unconcerned method does not read."""
    for source, options, kind, message in (
        ("table.csv", {"method": "arf"}, ArgumentError, "a pool"),
        ("labels.csv", {"method": "arf", "pool": data / "pool.csv"}, ArgumentError, "captions beside the labels"),
        ("labels.csv", {"method": "arf_lite"}, DataError, "caption column"),
        ("pool.csv", {"method": "arf_lite"}, DataError, "no labels"),
        ("table.csv", {"method": "arf", "pool": data / "labels.csv"}, DataError, "needs a caption for every image"),
        ("table.csv", {"method": "flyp", "pool": data / "pool.csv"}, ArgumentError, "does not read pool"),
    ):
        with pytest.raises(kind, match=message) as caught:
            finetune(data / source, tmp_path / "run", **options)
        assert "\n" not in str(caught.value)


def test_arf_lite_goes_on_with_captions_alone(data, tmp_path):
    """And says so by its name in the record."""
    run = finetune(data / "table.csv", tmp_path / "lite", method="arf_lite")
    assert run.record["method"] == "arf_lite"
    assert "arf_retrieved" not in (run.folder / "metrics.jsonl").read_text()
