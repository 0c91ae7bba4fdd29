"""Models split over ranks against one process: weights, log, checkpoints, bytes held, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.methods.test_contract import student
from tests.runs import finetune
from tests.training.rank_runs import STEPS, alone, tensors
from tests.training.ranks import run_ranks
from tests.training.shard_runs import everything, held, on_four, resumed, runs, two_groups
from tests.training.test_ranks import same
from tracerft.errors import ArgumentError
from tracerft.methods import METHODS

FAST = ["tracer", "ce_ft", "lawa"]
OTHERS = [name for name, info in METHODS.items() if info.shards and name not in FAST]


@pytest.fixture(scope="module")
def two(small_model, digits_folder, tmp_path_factory):
    """The folder that two ranks have left, after one process wrote what they go on with."""
    folder = tmp_path_factory.mktemp("shards")
    alone("tracer", folder / "from-one", steps=2)
    run_ranks(everything, 2, folder, FAST, small_model, digits_folder)
    return folder


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """The same of the methods that are left out there."""
    folder = tmp_path_factory.mktemp("others")
    run_ranks(runs, 2, folder, OTHERS)
    return folder


def same_run(name, folder, tmp_path, ranks=2):
    """Student and teacher after four steps, the log, and the bytes of a rank."""
    first, *more = (load_file(folder / f"{name}-{rank}.safetensors") for rank in range(ranks))
    assert all(torch.equal(first[n], other[n]) for other in more for n in first)
    trainer = alone(name, tmp_path)
    same(first, tensors(trainer))
    logs = [(of / "metrics.jsonl").read_text().splitlines() for of in (folder / name, tmp_path)]
    assert len(logs[0]) == STEPS
    for line, expected in zip(*logs, strict=True):
        assert json.loads(line) == pytest.approx(json.loads(expected), rel=1e-8, abs=1e-8)
    bytes_held = [json.loads((folder / f"held-{name}-{rank}.json").read_text()) for rank in range(ranks)]
    assert max(bytes_held) < 1.15 / ranks * held(trainer)  # what is left whole, and rows that W does not divide
    assert sum(bytes_held) >= held(trainer)


@pytest.mark.parametrize("name", FAST)
def test_a_split_run_is_the_run_of_one_process(name, two, tmp_path):
    """Ranks of 4 and 3 rows in two chunks: a teacher, a class head with a frozen tower, snapshots."""
    same_run(name, two, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_so_it_is_for_all_other_methods_that_can_be_split(name, others, tmp_path):
    """Those whose line in the METHODS table says so."""
    same_run(name, others, tmp_path)


@pytest.mark.slow
def test_four_ranks_and_a_checkpoint_of_two(tmp_path):
    """Uneven parts, and 2 + 2 + 2 + 1 rows."""
    run_ranks(resumed, 2, tmp_path / "two")
    (tmp_path / "four").mkdir()
    (tmp_path / "two" / "to-one").rename(tmp_path / "four" / "to-four")
    run_ranks(on_four, 4, tmp_path / "four")
    same(load_file(tmp_path / "four" / "to-four-3.safetensors"), tensors(alone("tracer", tmp_path / "whole")))


def test_two_copies_each_split_over_two_ranks(tmp_path):
    """As one process; a rank keeps half; gradients are added up in a group, and a part of each over the groups."""
    run_ranks(two_groups, 4, tmp_path / "four")
    trainer = alone("tracer", tmp_path / "one")
    small = sum(p.numel() for p in student("tracer").parameters() if p.ndim)
    for rank in range(4):
        same(load_file(tmp_path / "four" / f"tracer-{rank}.safetensors"), tensors(trainer))
        found = json.loads((tmp_path / "four" / f"found-{rank}.json").read_text())
        assert 0.49 * held(trainer) < found["held"] < 1.15 / 2 * held(trainer)
        assert found["norm"][0] == pytest.approx(found["norm"][1], rel=1e-12)
        gathered = 3 * found["blocks"] + 5 * (small - found["blocks"])
        assert gathered <= found["gathered"] < 1.01 * gathered
        assert small <= found["summed"] < 1.01 * small
        assert found["over_groups"] == found["summed"] / 2
        assert [line.split("; got ")[1] for line in found["refused"]] == ["3", "4"]
    assert found["refused"][0].startswith("`train.replicas` must divide the 4 ranks into groups of two or more; got")


def test_checkpoints_go_on_whole_or_split(two, tmp_path):
    """One process to two ranks and the other way round: one format, in which nothing is split."""
    expected = tensors(alone("tracer", tmp_path / "whole"))
    same(load_file(two / "from-one-1.safetensors"), expected)
    (kept,) = (two / "to-one" / "checkpoints").iterdir()
    names = [path.name for path in (tmp_path / "whole" / "checkpoints" / "step-00000002").iterdir()]
    assert sorted(path.name for path in kept.iterdir()) == sorted(names)
    for part in ("student", "optimizer", "method"):
        saved, other = (
            load_file(of / f"{part}.safetensors") for of in (kept, tmp_path / "whole" / "checkpoints" / "step-00000002")
        )
        same(saved, other)
    same(tensors(alone("tracer", two / "to-one", resume=True)), expected)


def test_tied_frozen_and_single_numbers(two):
    """A tied block stays tied, a 0-d parameter whole, and its gradient is the sum of the ranks'."""
    found, expected = (load_file(two / f"tied-{split}-1.safetensors") for split in (True, False))
    same(found, expected)
    assert found["same"]
    assert float(found["gain"]) != 1.5
    assert "text.blocks.0.out.weight" in found


def test_norm_is_of_all_parts_and_a_nan_in_one_is_everyones(two):
    """Against the whole gradients; only the scale is left whole of this model."""
    for rank in range(2):
        found = json.loads((two / f"inside-{rank}.json").read_text())
        assert found["norm"][0] == pytest.approx(found["norm"][1], rel=1e-12)
        assert found["nan"] is True
        assert found["whole"] == ["logit_scale"]
        assert found["small"].startswith("`train.batch_size` must be at least 4 with train.shard, a row for each of 2")


def test_traffic_of_a_split_step_is_the_formula_of_the_manual(two):
    """Blocks B and rest R: (3 B + 5 R) gathered in one chunk, K (4 B + 7 R) in K; B + R added up in each."""
    whole = sum(p.numel() for p in student("tracer").parameters() if p.ndim)
    for rank in range(2):
        for chunks, found in json.loads((two / f"traffic-{rank}.json").read_text()).items():
            blocks, rest, k = found["blocks"], whole - found["blocks"], int(chunks)
            gathered = 3 * blocks + 5 * rest if k == 1 else k * (4 * blocks + 7 * rest)
            assert gathered <= found["gathered"] < 1.01 * gathered  # odd rows are padded
            assert k * whole <= found["summed"] < 1.01 * k * whole


def test_finetune_split_leaves_the_record_of_one_process(two, small_model, digits_folder, tmp_path):
    """Evaluated from the last checkpoint by the first rank; ranks that were told different things are refused."""
    (line, first), (other, second) = (json.loads((two / f"command-{rank}.json").read_text()) for rank in range(2))
    assert first == second
    expected = finetune(small_model, digits_folder, tmp_path / "one", train={"batch_size": 15, "probe_every": 0}).record
    assert first["ranks"] == 2
    for model, splits in expected["results"].items():
        for split, values in splits.items():
            assert first["results"][model][split]["nll"] == pytest.approx(values["nll"], rel=1e-4)
    same = ("method", "seed", "data", "parameters", "pretrained_weight", "steps")
    assert {name: first[name] for name in same} == {name: expected[name] for name in same}
    assert line == other
    assert "train.shard: True on rank 0, False on rank 1" in line


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "ftp"}, r"^`train.shard` cannot be used with `method` ftp \(it takes ce_ft, "),
        ({"lora": {"rank": 2}}, r"with lora.rank: it needs a whole model"),
        ({"guard": {"max_drop": 2}, "train": {"probe_every": 3}}, r"with guard.\*, train.probe_every: it needs"),
        ({"loss": {"cross_frobenius": 0.1}}, r"with loss.cross_frobenius, which multiplies weights: it needs"),
    ],
)
def test_what_needs_a_whole_model_is_refused(options, says, small_model, digits_folder, tmp_path):
    """Before anything is written, also in one process, where nothing would be split."""
    train = {"shard": True, "probe_every": 0} | options.pop("train", {})
    with pytest.raises(ArgumentError, match=says):
        finetune(small_model, digits_folder, tmp_path / "run", train=train, **options)
    assert not (tmp_path / "run").exists()


def test_one_process_splits_nothing(tmp_path):
    """The same bits with the option and without."""
    found, expected = (tensors(alone("tracer", tmp_path / str(split), shard=split)) for split in (True, False))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
