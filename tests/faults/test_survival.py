"""Kills, full disks, closed folders, second writers and signals: nothing is lost, and one line says what happened."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import rank_faults
from tests.faults.killing import SOME

ROOT = Path(__file__).parents[2]
DISK = (
    "configuration, byte 10", "log line, byte 0", "log line, half of the log", "checkpoint, byte 0",
    "checkpoint, byte 4096", "checkpoint, last byte of the student", "checkpoint, last byte of the optimiser",
    "predictions, byte 64", "models, byte 64", "record, byte 64",
)  # fmt: skip


def survive(size, model, data, folder):
    """What `tests.faults.survive` found, in a process that has not trained and has one thread."""
    command = [sys.executable, "-m", "tests.faults.survive", folder / "runs", model, data, folder / "found.json", size]
    done = subprocess.run(
        list(map(str, command)),
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "found.json").read_text())


@pytest.fixture(scope="module")
def found(small_model, digits_folder, tmp_path_factory):
    """All scenarios of the normal tests, in one process."""
    return survive("some", small_model, digits_folder, tmp_path_factory.mktemp("faults"))


def told(code, lines, *words):
    """Whether a command ended as a user's mistake does: exit code 2, one last line with these words, no traceback."""
    assert code == 2, lines
    ours = [line for line in lines if line.startswith("tracerft: ")]
    assert ours == lines[-1:]
    assert not any("Traceback" in line for line in lines)
    for word in words:
        assert word in ours[0]


@pytest.mark.parametrize("index", range(len(SOME)), ids=list(SOME))
def test_a_killed_run_is_resumed_to_the_same_bytes(index, found):
    """Weights, optimiser, teacher, log, predictions, results, and no file more than in the unbroken run."""
    kill = found["kills"][index]
    assert kill["killed"]
    assert kill["differs"] == []


@pytest.mark.parametrize("name", DISK)
def test_a_full_disk_is_one_line_and_loses_nothing(name, found):
    """The checkpoint before is whole; with room again the run ends as if nothing had been."""
    case = found["disk"][name]
    told(case["code"], case["lines"], "ot written" if "checkpoint" in name else "cannot be written", "File too large")
    due = {"configuration": None, "log": 2, "checkpoint": 2}.get(name.replace(",", " ").split()[0], 6)
    assert case["step"] == due
    assert case["problems"] == []
    assert case["differs"] == []


def test_every_offset_has_its_test(found):
    """The list here is the list there."""
    assert set(DISK) == set(found["disk"])


def test_a_read_only_folder_is_one_line(found):
    """For a new run and for one to go on with; made writable again, the latter ends as if nothing had been."""
    case = found["read-only"]
    told(*case["new"], "cannot be written (Permission denied); choose another --out")
    told(*case["resumed"], "cannot be written (Permission denied)", "make it writable, then go on with")
    assert case["differs"] == []


def test_a_second_writer_is_refused(found):
    """Whether it resumes or starts; the first is not disturbed."""
    case = found["two writers"]
    for of_second in (case["resumed"], case["new"]):
        told(*of_second, "another process is writing this run")
    assert case["code"] == 0
    assert case["differs"] == []


@pytest.mark.parametrize(
    ("sent", "code", "step", "says"),
    [
        ("SIGTERM", 143, 3, "SIGTERM came: step 3 of 6 is saved; go on with `tracerft finetune --resume"),
        ("SIGTERM SIGTERM", 143, 3, "SIGTERM came: step 3 of 6 is saved"),
        ("SIGINT", 130, 3, "interrupted"),
        ("SIGINT SIGINT", 130, None, "interrupted"),
    ],
)
def test_a_signal_ends_the_run_after_the_step_is_saved(sent, code, step, says, found):
    """Within ten seconds and in one line; only Ctrl-C twice leaves at once."""
    case = found["signals"][sent]
    assert (case["code"], case["step"]) == (code, step)
    assert case["seconds"] < 10
    assert [line for line in case["lines"] if line.startswith("tracerft: ")] == case["lines"][-1:]
    assert says in case["lines"][-1]
    assert case["differs"] == []


@pytest.mark.parametrize("index", range(len(rank_faults.SOME)), ids=[f"rank {r}, {p}" for r, p in rank_faults.SOME])
def test_a_killed_rank_ends_the_other_and_both_are_resumed_to_the_same_bytes(index, found):
    """The other ends by itself in one line; two ranks then leave what two ranks leave that nobody killed."""
    kill = found["rank kills"][index]
    assert kill["killed"]
    assert kill["other"] == 1
    who = "" if kill["rank"] else "rank 1: "
    ours = [line for line in kill["lines"] if line.startswith("tracerft: ")]
    assert ours == kill["lines"][-1:]
    assert ours[0].startswith(f"tracerft: {who}another rank ended or is not reached (")
    assert kill["differs"] == []


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_rank_ends_both_after_the_same_step_is_saved(rank, found):
    """From outside and within ten seconds; two ranks go on to the bytes of the unbroken two."""
    case = found["rank signals"][rank]
    assert case["codes"] == [143, 143]
    assert case["step"] == 3
    assert case["seconds"] < 10
    for who, line in zip(("", "rank 1: "), case["lines"], strict=True):
        assert line.startswith(f"tracerft: {who}SIGTERM came: step 3 of 6 is saved")
    assert case["differs"] == []


@pytest.mark.parametrize(("case", "silent"), [("2 of 3", 2), ("0 of 2", 0)])
def test_a_rank_that_hangs_is_named_by_the_others(case, silent, found):
    """Stopped by SIGSTOP in a step, also the one that holds the group's store; no rank that still runs is named."""
    ends = found["hung"][case]
    assert len(ends) == int(case[-1]) - 1
    assert {end["code"] for end in ends.values()} == {1}
    lines = [end["lines"][-1] for end in ends.values()]
    assert any(f"no sign of rank {silent} (" in line for line in lines)
    for line in lines:
        assert f"no sign of rank {silent} (" in line or "another rank ended or is not reached (" in line


@pytest.mark.faults
def test_two_hundred_kills_lose_nothing(small_model, digits_folder, tmp_path):
    """Every point for two methods and on each of two ranks, and random times; leaves the report in docs."""
    report = survive("many", small_model, digits_folder, tmp_path)
    out = ROOT / "docs" / "results" / "faults" / "kills.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")
    assert report["differing"] == []
    assert report["kills"] >= 200
    assert report["ranks"]["kills"] >= 54  # at points alone; random ones may come too late
    assert report["ranks"]["not ended by themselves"] == []
