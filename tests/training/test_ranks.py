"""Several processes against one: gradients, weights, resume, stopping, and what is sent."""

import json
import runpy
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import SMALL
from tests.methods.test_contract import TRAINED, student
from tests.runs import finetune
from tests.training.rank_runs import STEPS, alone, everything, four, runs, tensors
from tests.training.ranks import LOSSES, SIZE, TYPES, run_ranks, whole_gradient
from tracerft.distributed import ALONE, World, gather_rows, joined
from tracerft.errors import ArgumentError

FAST = ["tracer", "flyp", "ce_ft", "ldifs", "ftp", "arf"]
OTHERS = [name for name in TRAINED if name not in FAST]
EXACT = {"float64": 1e-12, "float32": 1e-6}  # of gradients, relative to the largest of each parameter


@pytest.fixture(scope="module")
def two(small_model, digits_folder, tmp_path_factory):
    """The folder that two ranks have left, after one process wrote what they go on with."""
    folder = tmp_path_factory.mktemp("ranks")
    alone("tracer", folder / "from-one", steps=2)
    run_ranks(everything, 2, folder, FAST, small_model, digits_folder)
    return folder


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """The same of the methods that are left out there."""
    folder = tmp_path_factory.mktemp("others")
    run_ranks(runs, 2, folder, OTHERS)
    return folder


def compare(folder, splits, types=tuple(TYPES), name="gradients", size=2):
    """Largest relative difference of any gradient from plain autograd, by type; every rank has the same bits."""
    first, *others = [load_file(folder / f"{name}-{rank}.safetensors") for rank in range(size)]
    for other in others:
        assert other.keys() == first.keys()
        assert all(torch.equal(other[name], first[name]) for name in first)
    worst = dict.fromkeys(types, 0.0)
    for (number, loss), kind, sizes in product(enumerate(LOSSES), types, splits):
        expected = whole_gradient(loss, TYPES[kind], sum(sizes))
        prefix = f"{number} {kind} {'+'.join(map(str, sizes))} "
        assert {prefix + parameter for parameter in expected} == {n for n in first if n.startswith(prefix)}
        largest = max(float(value.abs().max()) for value in expected.values())
        for parameter, value in expected.items():
            worst[kind] = max(worst[kind], float((first[prefix + parameter] - value).abs().max()) / largest)
    return worst


@pytest.mark.parametrize(
    ("name", "splits", "types"),
    [
        ("gradients", [[4, 3], [3, 0]], tuple(TYPES)),
        ("in-chunks", [[5, 2]], ("float64",)),
        ("shared-out", [[4, 3], [3, 0]], ("float64",)),
    ],
)
def test_gradients_of_all_sixteen_losses_are_those_of_one_process(two, name, splits, types):
    """Uneven ranks, an empty one, ranks in chunks, and the loss shared out, against plain autograd of the whole."""
    worst = compare(two, splits, types, name)
    assert all(worst[name] < EXACT[name] for name in types), worst


@pytest.mark.slow
def test_four_ranks(tmp_path):
    """Uneven ones, and two of four empty; what a step sends."""
    splits = [[2, 2, 2, 1], [1, 1, 0, 0]]
    run_ranks(four, 4, tmp_path, splits)
    worst = compare(tmp_path, splits, size=4)
    assert all(worst[name] < EXACT[name] for name in TYPES), worst
    assert compare(tmp_path, splits, ["float64"], "shared-out", size=4)["float64"] < EXACT["float64"]
    sends_what_the_manual_says(tmp_path, 4)


@pytest.mark.parametrize("name", ["own-loop", "own-loop-shared-out"])
def test_gather_rows_in_a_loop_of_ones_own_with_torchs_ddp(two, name):
    """Gradients of encoders and scale are those of one process; a gather without gradient gives 1 / W of them."""
    found, expected = load_file(two / f"{name}.safetensors"), whole_gradient(LOSSES[0], torch.float64, SIZE)
    del expected["loss"]
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def same(found, expected):
    """Weights to what AdamW makes of rounding: where a gradient is 0 it divides rounding by its own root."""
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def same_run(name, folder, tmp_path):
    """Student and teacher after four steps, and the log; both ranks end with the same bits."""
    first, second = (load_file(folder / f"{name}-{rank}.safetensors") for rank in range(2))
    assert all(torch.equal(first[n], second[n]) for n in first)
    same(first, tensors(alone(name, tmp_path)))
    logs = [(of / "metrics.jsonl").read_text().splitlines() for of in (folder / name, tmp_path)]
    for line, expected in zip(*logs, strict=True):
        assert json.loads(line) == pytest.approx(json.loads(expected), rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("name", FAST)
def test_a_run_is_the_run_of_one_process(name, two, tmp_path):
    """Methods with a teacher, a class head, inner features, gradients read before the step, a student in the loss."""
    same_run(name, two, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_so_it_is_for_all_other_methods(name, others, tmp_path):
    """Those that a new line in the METHODS table adds too."""
    same_run(name, others, tmp_path)


def test_ranks_read_their_own_samples_and_no_others(two, tmp_path):
    """Together they are the batches of one process, in order."""
    first, second = (json.loads((two / f"asked-{rank}.json").read_text()) for rank in range(2))
    whole = alone("tracer", tmp_path).source.asked
    assert [a + b for a, b in zip(first, second, strict=True)] == whole
    assert {len(a) for a in first} == {4}


def test_ranks_in_chunks_and_resumed_from_one_process(two, tmp_path):
    """Also the other way round: one process goes on with what two ranks have saved."""
    expected = tensors(alone("tracer", tmp_path / "whole"))
    for name in ("chunks", "from-one"):
        same(load_file(two / f"{name}-1.safetensors"), expected)
    same(tensors(alone("tracer", two / "from-two", resume=True)), expected)


def said(folder, name):
    """What both ranks said."""
    return [json.loads((folder / f"said-{rank}.json").read_text()).get(name) for rank in range(2)]


def test_a_nan_on_one_rank_stops_all_in_the_same_step(two):
    """The gradient of the other rank would be none either."""
    for line in said(two, "nan"):
        assert line.startswith("NonFiniteError: step 2: ")


def test_a_signal_to_one_rank_stops_all_after_the_same_step(two):
    """The step is saved once, by the first."""
    for line in said(two, "signal"):
        assert line.startswith("StoppedError: SIGUSR1 came: step 2 of 4 is saved")
    assert [folder.name for folder in (two / "signal" / "checkpoints").iterdir()] == ["step-00000002"]


def test_ranks_that_were_told_different_things_are_refused(two):
    """One line, the same on each, with rank, names and both values; no folder is made."""
    (first, *_), (second, *_) = (json.loads((two / f"command-{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert first.startswith("StateError: rank 1 differs from rank 0 in 2 thing(s): data_sha256: '")
    assert "; train.seed: 0 on rank 0, 1 on rank 1; start all ranks with the same" in first
    assert not (two / "refused").exists()
    assert said(two, "everywhere") == [[[0, ""], [1, "ä"]]] * 2


def test_finetune_leaves_one_record_that_every_rank_reads(two, small_model, digits_folder, tmp_path):
    """In float32, so the log is compared to rounding; test_torchrun compares results."""
    (_, first, groups), (_, second, _) = (json.loads((two / f"command-{rank}.json").read_text()) for rank in range(2))
    assert groups[0] == groups[1] >= 2  # the program's own, and one of the refused run; none is left behind
    written = json.loads((two / "finetuned" / "record.json").read_text())
    assert first == second == written
    expected = finetune(small_model, digits_folder, tmp_path / "one", train={"batch_size": 15}).record
    assert written["ranks"] == 2
    same = ("method", "seed", "data", "classes", "warnings", "parameters", "pretrained_weight", "steps")
    assert {name: written[name] for name in same} == {name: expected[name] for name in same}
    logs = [(of / "metrics.jsonl").read_text().splitlines() for of in (two / "finetuned", tmp_path / "one")]
    for line, whole in zip(*logs, strict=True):
        assert json.loads(line) == pytest.approx(json.loads(whole), rel=1e-3, abs=1e-4)


def test_batch_statistics_and_wrong_sizes_are_refused(two):
    """One line with the cure."""
    for line in said(two, "norm"):
        assert line.startswith("ArgumentError: this model cannot train on several ranks, as visual.norm takes")
    for line in said(two, "sizes"):
        assert line.startswith("ShapeError: `sizes` must be the rows of each of 2 ranks; got [3, 3] and 2 rows on rank")


def sends_what_the_manual_says(folder, ranks):
    """Numbers that each rank gathers and sums in a step of 8 rows, by the function that makes the manual's tables."""
    sent = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "scale.py"))["numbers_sent"]
    parameters = sum(p.numel() for p in student("tracer").parameters())
    for rank, (name, large) in product(range(ranks), (("traffic", False), ("traffic-of-large", True))):
        found = json.loads((folder / f"{name}-{rank}.json").read_text())
        assert found.pop("unused") == [1.0] * 3
        assert found == sent(8, SMALL.embed_dim, parameters, large=large)


def test_traffic_of_a_step_is_the_formula_of_the_manual(two):
    """Embeddings of student and teacher, three numbers a row, one sum of gradients; of a large batch, the loss's."""
    sends_what_the_manual_says(two, 2)


def test_rows_are_shared_out_evenly():
    """All of them, in order, the first ranks having more."""
    assert World(0, 4).sizes(6) == [2, 2, 1, 1]
    assert [World(rank, 4).share(6) for rank in range(4)] == [slice(0, 2), slice(2, 4), slice(4, 5), slice(5, 6)]
    assert World(3, 4).sizes(3) == [1, 1, 1, 0]
    assert World(3, 4).share(3) == slice(0, 1)


def test_one_process_never_asks_torch(monkeypatch):
    """Without torchrun, or with one process of it, there is no group; the tensor itself comes back."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_: pytest.fail("a group was made"))
    tensor = torch.ones(2, 3, requires_grad=True)
    assert gather_rows(tensor, [2]) is tensor
    assert ALONE.everywhere({"a": 1}) == [{"a": 1}]
    assert ALONE.largest(3) == 3
    for value in (None, "1"):
        if value:
            monkeypatch.setenv("WORLD_SIZE", value)
        with joined("cpu") as world:
            assert world is ALONE


@pytest.mark.parametrize(
    ("variables", "device", "says"),
    [
        ({}, "cpu", r"^MASTER_ADDR must be set beside WORLD_SIZE, which is 2; start .*torchrun"),
        ({"MASTER_ADDR": "localhost", "RANK": "-1"}, "cpu", r"^RANK must be a number >= 0; got '-1'"),
        ({"MASTER_ADDR": "localhost", "RANK": "0", "MASTER_PORT": "1"}, "mps", r"^`train.device` must be auto, cuda"),
    ],
)
def test_variables_that_do_not_fit_are_one_line(variables, device, says, monkeypatch):
    """Before any process waits for another."""
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"WORLD_SIZE": "2"} | variables).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ArgumentError, match=says), joined(device):
        pass


def test_a_group_for_gpus_alone_is_refused(monkeypatch):
    """The one that ``init_process_group("nccl")`` makes, as Ray does by itself."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_backend_config", lambda: "cuda:nccl")
    says = (
        r"process group must serve the CPU .* it has cuda:nccl; make it with init_process_group\('cpu:gloo,cuda:nccl'\)"
    )
    with pytest.raises(ArgumentError, match=says), joined("cuda"):
        pass


def test_steps_of_this_file_need_both_ranks():
    """The runs above end in the middle of an epoch, and an epoch's order is crossed."""
    assert STEPS * SIZE > 20
