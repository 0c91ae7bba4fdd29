"""No command ends in a traceback, in silence, in more than ten seconds or in more memory than a picture takes."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tracerft
from tests.badinput.bad_doors import DOORS
from tests.badinput.bad_images import IMAGES
from tests.badinput.bad_sets import MANIFESTS
from tests.image_runs import finetune, make_data
from tests.models.small import folder as small_folder
from tracerft.cli.main import main

COMPAT = sorted((Path(__file__).parents[1] / "compat").glob("*/model"))[-1].parent
SECONDS = 10  # of the processor: on a busy machine wall time measures the neighbours
LEAST = 150
MEGABYTES = 400  # what reading one input may add; a picture of the largest size allowed takes 320


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> dict[str, Path]:
    """What is only read: a model for images, a run of it, its data."""
    folder = make_data(tmp_path_factory.mktemp("doors"))
    run = finetune(folder / "photos", folder / "run").folder
    return {"vit": Path(small_folder("vit")), "run": run, "photos": folder / "photos"}


@pytest.fixture
def here(pictures, tmp_path, monkeypatch) -> Path:
    """The current folder, as `bad_trainings` says."""
    for name in ("model", "finished", "cut"):
        shutil.copytree(COMPAT / name, tmp_path / name)
    for name, target in pictures.items():
        (tmp_path / name).symlink_to(target)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("default")  # the command shows a warning as a line of its own
@pytest.mark.parametrize("kind", DOORS)
def test_bad_input_of_a_command(kind, here, capsys):
    """The exit code, and one line that says what is wrong; in ten seconds, and nothing was executed."""
    door = DOORS[kind]
    if door.make is not None:
        door.make()
    started = time.process_time()
    with pytest.raises(SystemExit) as stop:
        main(door.arguments)
    assert time.process_time() - started < SECONDS
    out, err = capsys.readouterr()
    assert stop.value.code == door.code, err
    assert "Traceback" not in err
    assert not (here / "hacked").exists()
    if door.code == 0:
        assert re.search(door.says, out + err), out + err
        return
    line = err.splitlines()[-1]
    assert out == ""
    assert line.startswith("tracerft: ")
    assert line.isprintable()
    assert len(line) < 1000
    assert re.search(door.says, line), line


def test_there_are_enough_and_no_two_alike():
    """At least 150 kinds, each with its own bytes or its own command."""
    assert len(IMAGES) + len(MANIFESTS) + len(DOORS) >= LEAST
    assert len({data for data, _ in IMAGES.values()}) == len(IMAGES)
    assert len({(*door.arguments, door.says) for door in DOORS.values()}) == len(DOORS)


CHILD = """
import contextlib, io, json, resource, sys, time
import torch
from tracerft.cli.main import run
from tracerft.data import images, inspect, manifest
from tracerft.models import weights

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) // 1024

more, commands = json.loads(sys.argv[1])
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + (2 * more << 20),) * 2)
for command in commands:
    before, started, said = peak(), time.process_time(), io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        code = run(command)
    print(json.dumps([code, said.getvalue(), peak() - before, time.process_time() - started]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured as Linux tells it")
def test_bombs_take_no_memory(here):
    """Pictures, tables and YAML that stand for gigabytes, in a process that may not have them."""
    bombs = {name: data for name, (data, says) in IMAGES.items() if "bomb" in name or "the limit is 80" in says}
    (here / "bombs/x").mkdir(parents=True)
    for number, data in enumerate(bombs.values()):
        (here / f"bombs/x/{number}.png").write_bytes(data)
    kinds = ("finetune: alias bomb of any ending", "resume: config with a bomb", "model: a width of 10^9",
             "model: header of 2^62 bytes", "other: inspect a table of 2 GiB")  # fmt: skip
    for kind in kinds:
        DOORS[kind].make()
        if kind.startswith("model: a"):  # the next one spoils the weights of the same model
            (here / "model").rename(here / "wide")
            shutil.copytree(COMPAT / "model", here / "model")
    commands = [DOORS[kind].arguments for kind in kinds]
    commands[2] = ["evaluate", "wide", "--suite", "digits"]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps([MEGABYTES, [["inspect", "bombs", "--json"], *commands]])],
        capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(Path(tracerft.__file__).parents[1])},  # else another checkout may be read
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (code, said, grown, seconds), *others = map(json.loads, done.stdout.splitlines())
    assert (code, json.loads(said)["images"]["broken"]["count"]) == (0, len(bombs))
    assert len(bombs) >= 8
    for kind, (code_, said_, grown_, seconds_) in zip(kinds, others, strict=True):
        assert (code_, said_.count("\n")) == (2, 1), kind
        assert grown_ < MEGABYTES, kind
        assert seconds_ < SECONDS, kind
    assert grown < MEGABYTES
    assert seconds < SECONDS
