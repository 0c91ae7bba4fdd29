"""The command itself under torchrun: two processes on the embedded digits leave one record; a signal; a killed rank."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tracerft"]
single = [sys.executable, "-m", "tracerft"]
COMMAND = ["finetune", "--model=tiny", "--data=digits", "--train.device=cpu", "--train.log_every=1"]
COMMAND += ["--train.batch_size=15", "--train.warmup_steps=1", "--digits.count=400"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def finished(command, *options):
    """Standard output and standard error of a command that must succeed."""
    done = subprocess.run([*command, *options], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def as_srun_starts_them(size, *options):
    """Processes that are ranks by their environment alone, as a scheduler makes them; all must succeed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = ENVIRONMENT | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    ranks = [subprocess.Popen([*single, *options], env=shared | {"RANK": str(rank)}) for rank in range(size)]
    assert [rank.wait(timeout=300) for rank in ranks] == [0] * size


def results(folder):
    """Of a record, and the rest of it."""
    record = json.loads((folder / "record.json").read_text())
    return record.pop("results"), record


def close(found, expected):
    """Every number of two nested results to 1e-6."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, dict):
            close(found[name], value)
        elif value is None:
            assert found[name] is None, name
        else:
            assert found[name] == pytest.approx(value, rel=1e-6, abs=1e-6), name


SPLIT = pytest.mark.parametrize("split", [[], ["--train.shard=true"]], ids=["whole", "split"])


@pytest.mark.slow
@SPLIT
def test_two_processes_leave_the_record_of_one(split, tmp_path):
    """One table on stdout, the same numbers, the number of ranks in the record."""
    options = [*COMMAND, "--train.steps=10", "--train.lr=1e-4"]
    out, err = finished(torchrun, *options, *split, f"--out={tmp_path / 'two'}")
    expected, _ = finished(single, *options, f"--out={tmp_path / 'one'}")
    assert out == expected
    assert "rank 1" not in err
    (two, record), (one, alone) = results(tmp_path / "two"), results(tmp_path / "one")
    close(two, one)
    assert record["ranks"] == 2
    assert "ranks" not in alone
    assert record["data"] == alone["data"]
    files = [sorted(str(p.relative_to(tmp_path / n)) for p in (tmp_path / n).rglob("*")) for n in ("one", "two")]
    assert files[0] == files[1]


@pytest.mark.slow
def test_a_signal_to_torchrun_saves_the_step_and_the_run_goes_on(tmp_path):
    """SIGTERM, then --resume without torchrun: to the last byte the run of as many ranks that was not cut."""
    options = [*COMMAND, "--train.steps=60", "--train.lr=1e-4", "--train.checkpoint_every=0"]
    cut = tmp_path / "cut"
    run = subprocess.Popen(
        [*torchrun, *options, f"--out={cut}"], env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    log, ends = cut / "metrics.jsonl", time.monotonic() + 120
    while not log.exists() or len(log.read_text().splitlines()) < 4:
        assert time.monotonic() < ends, "no step in two minutes"
        assert run.poll() is None, run.communicate()[1].decode()
        time.sleep(0.01)
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate(timeout=300)
    assert run.returncode != 0
    assert b"SIGTERM came: step" in said
    assert b"rank 1: SIGTERM came: step" in said
    (folder,) = (cut / "checkpoints").iterdir()
    assert 0 < int(folder.name[5:]) < 60
    as_srun_starts_them(2, "finetune", f"--resume={cut}")
    finished(torchrun, *options, f"--out={tmp_path / 'whole'}")
    assert results(cut)[0] == results(tmp_path / "whole")[0]
    for name in ("student", "teacher"):
        first, second = (next(of.glob(f"{name}/*.safetensors")).read_bytes() for of in (cut, tmp_path / "whole"))
        assert first == second, name
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == sorted(set(steps))


@pytest.mark.slow
@SPLIT
def test_a_killed_rank_ends_the_others(split, tmp_path):
    """Rank 1 dies in a step; rank 0 says in one line what happened, and does not wait."""
    code = """
import os, signal, tracerft.training.trainer as t
step = t.Trainer._one_step
def killed(self):
    if self.world.rank == 1 and self.step == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self)
t.Trainer._one_step = killed
from tracerft.cli.main import main
main()
"""
    (tmp_path / "killed.py").write_text(code)
    done = subprocess.run(
        [
            *torchrun[:-2],
            str(tmp_path / "killed.py"),
            *COMMAND,
            *split,
            "--train.steps=5000",
            f"--out={tmp_path / 'run'}",
        ],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode != 0
    assert "tracerft: another rank ended or is not reached" in done.stderr
    assert "Traceback" not in done.stderr.split("tracerft: another rank ended")[0]
    assert "Signal 9 (SIGKILL)" in done.stderr  # torchrun's list, with the rank
    assert not (tmp_path / "run" / "record.json").exists()


def test_other_commands_take_one_process(monkeypatch, capsys):
    """One line, exit code 2; every rank says who it is but the first."""
    from tracerft.cli.main import run

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert run(["methods"]) == 2
    assert capsys.readouterr() == ("", "tracerft: rank 1: tracerft methods takes one process; got WORLD_SIZE 2; start "
                                       "it without torchrun\n")  # fmt: skip
    assert run(["finetune", "--model=tiny", "--data=digits", "--out=never", "--dry_run"]) == 2
    assert "a dry run takes one process" in capsys.readouterr().err
