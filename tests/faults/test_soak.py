"""The soak notices what it is for: a leak of handles, of memory, another byte; at a small length it passes."""

import os
import shutil
import sys

import pytest

from tests.faults.lives import Kill, Life, Sample, grown, lived
from tests.faults.soak import differing, failures, soak, successive
from tests.faults.soak_page import write_page
from tests.runs import finetune

# A process that "trains" by a line of its log every 20 ms, and leaks what its argument says.
LEAKING = """
import sys, time
held = []
with open(sys.argv[1], "a") as log:
    for step in range(200):
        log.write("step\\n"); log.flush()
        if sys.argv[2] == "handles" and step % 10 == 0:
            held.append(open(sys.argv[1]))
        if sys.argv[2] == "memory":
            held.append(bytearray(40_000))
        time.sleep(0.02)
"""


@pytest.mark.parametrize(
    ("leak", "found", "training"),
    [("nothing", [], True), ("handles", ["open"], True), ("memory", ["resident"], False)],
)
def test_a_leak_is_noticed(leak, found, training, tmp_path):
    """Of one handle in ten steps, of 40 kB a step; and a steady process passes, though it is killed."""
    log = tmp_path / "log"
    command = [sys.executable, "-c", LEAKING, str(log), leak]
    life = lived(
        command,
        log,
        core=min(os.sched_getaffinity(0)),
        every=0.05,
        kill=Kill(2.0, in_training=training),
        says=tmp_path / "err",
    )
    assert (tmp_path / "err").read_text() == ""
    assert life.code == -9
    assert [line.split()[0] for line in grown(life.quarters())] == found


def test_start_and_evaluation_are_no_training():
    """Only what lies between the first line of the log and the last is judged, and only if there is enough of it."""
    life = Life([Sample(i, 100.0 + i * (i < 10), 5, min(max(i - 10, 0), 20)) for i in range(50)])
    assert [s.seconds for s in life.training()] == list(range(11, 31))
    assert life.quarters() == {"mib": [100.0, 100.0], "handles": [5, 5]}
    assert Life(life.samples[:20]).quarters() is None


def test_growth_from_process_to_process_is_noticed():
    """Each one steady, the later ones larger."""
    lives = [{"mib": [m, m], "handles": [7, 7]} for m in (100, 100, 101, 101, 102, 102, 110, 110)]
    assert grown(successive(lives)) == ["resident memory from 101.0 to 110.0 MiB"]
    assert grown(successive(lives[:6])) == []


@pytest.fixture(scope="module")
def run(small_model, digits_folder, tmp_path_factory):
    """A finished run of six steps."""
    folder = tmp_path_factory.mktemp("soak") / "run"
    finetune(small_model, digits_folder, folder)
    return folder


@pytest.mark.parametrize("name", ["student/model.safetensors", "metrics.jsonl", "predictions/teacher/id.safetensors"])
def test_another_byte_is_noticed(name, run, tmp_path):
    """In weights, log, predictions; an untouched copy does not differ."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    assert differing(run, copy) == []
    data = bytearray((copy / name).read_bytes())
    data[-1] ^= 1
    (copy / name).write_bytes(data)
    assert differing(run, copy) == [name]


def test_a_missing_file_and_another_result_are_noticed(run, tmp_path):
    """By name."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "teacher" / "model.safetensors").unlink()
    text = (copy / "record.json").read_text()
    assert '"top1": ' in text
    (copy / "record.json").write_text(text.replace('"top1": ', '"top1": 1', 1))
    assert differing(run, copy) == ["results", "teacher/model.safetensors"]


def test_what_did_not_hold_is_told():
    """Kills that all came before the training, a run too short to tell, a byte."""
    bare = {"differing": ["metrics.jsonl"], "kills in training": 0, "killed": [], "unbroken": {"quarters": None}}
    assert [line.split(";")[0] for line in failures(bare)] == [
        "metrics.jsonl differs", "nothing was killed in training", "the unbroken run was too short to tell",
    ]  # fmt: skip


@pytest.mark.faults
def test_a_short_soak_passes(tmp_path):
    """Half a minute of the command's own work, with a page."""
    report = soak(0.5, tmp_path / "runs", every=0.2)
    assert report["failures"] == []
    assert report["kills in training"] > 0
    write_page(tmp_path, report)
    assert "| what differs | nothing |" in (tmp_path / "README.md").read_text()
    assert (tmp_path / "memory.svg").is_file()
