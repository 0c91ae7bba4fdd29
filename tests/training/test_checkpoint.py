"""Checkpoint folders: whole or passed over, whatever happened to them."""

import json
import shutil

import pytest
import torch

from tracerft.errors import CheckpointError
from tracerft.training import checkpoint as module
from tracerft.training.checkpoint import (
    Checkpoint,
    folders,
    join_state,
    newest_checkpoint,
    read_checkpoint,
    split_state,
    write_checkpoint,
)


def example(step: int) -> Checkpoint:
    """A small checkpoint whose tensors tell its step."""
    parts = {"student": {"w": torch.full((64,), float(step))}, "optimizer": {}}
    return Checkpoint(step, parts, {"log_bytes": step})


@pytest.fixture
def root(tmp_path):
    """Two checkpoints, of steps 3 and 6."""
    for step in (3, 6):
        write_checkpoint(tmp_path, example(step))
    return tmp_path


def flip(folder):
    """One bit of the weights."""
    path = folder / "student.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


def truncate(folder):
    """The second half of the weights is gone."""
    path = folder / "student.safetensors"
    path.write_bytes(path.read_bytes()[:-64])


def rewrite_manifest(**changes):
    """Other values in the manifest."""

    def damage(folder):
        path = folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


DAMAGES = [
    (flip, "SHA-256 differs"),
    (truncate, "SHA-256 differs"),
    (lambda folder: (folder / "state.json").unlink(), "not a whole checkpoint"),
    (lambda folder: (folder / "manifest.json").unlink(), "not a whole checkpoint"),
    (lambda folder: (folder / "manifest.json").write_text("{"), "not a whole checkpoint"),
    (lambda folder: (folder / "manifest.json").write_text("[1]"), "not a whole checkpoint"),
    (lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe\x00"), "not a whole checkpoint"),
    (rewrite_manifest(sha256=None), "not a whole checkpoint"),
    (rewrite_manifest(format=99), "format 99, this version reads 1; update tracerft"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_with_its_name(damage, message, root):
    """The older one is used, and one line says what was wrong with the newer."""
    damage(root / "step-00000006")
    checkpoint, problems = newest_checkpoint(root)
    assert checkpoint is not None
    assert checkpoint.step == 3
    assert len(problems) == 1
    assert "step-00000006" in problems[0]
    assert message in problems[0]


def test_without_any_whole_checkpoint_there_is_none(root):
    """All damaged, or no folder at all."""
    for folder in folders(root):
        flip(folder)
    checkpoint, problems = newest_checkpoint(root)
    assert checkpoint is None
    assert len(problems) == 2
    assert newest_checkpoint(root / "missing") == (None, [])


def test_reading_gives_back_what_was_written(root):
    """Tensors to the bit, an empty part, plain values."""
    found = read_checkpoint(root / "step-00000003")
    assert torch.equal(found.parts["student"]["w"], torch.full((64,), 3.0))
    assert found.parts["optimizer"] == {}
    assert found.state == {"log_bytes": 3}


def test_old_checkpoints_are_pruned(tmp_path):
    """Two are kept, the newest ones; nothing else is left."""
    for step in (1, 2, 3, 10):
        write_checkpoint(tmp_path, example(step))
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["step-00000003", "step-00000010"]


def test_a_kill_before_the_rename_leaves_the_older_one(root):
    """A folder that is still called `.writing` is never read, and the next write replaces it."""
    left = root / ".step-00000009.writing"
    shutil.copytree(root / "step-00000006", left)
    (left / "student.safetensors").write_bytes(b"half")
    checkpoint, problems = newest_checkpoint(root)
    assert (checkpoint.step, problems) == (6, [])
    write_checkpoint(root, example(9))
    assert newest_checkpoint(root)[0].step == 9
    assert not left.exists()


@pytest.mark.parametrize("name", ["replace", "fsync"])
def test_a_disk_that_refuses_leaves_the_older_ones(name, root, monkeypatch):
    """The error is one of ours and says that older checkpoints are whole, which they are."""

    def refuse(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, name, refuse)
    with pytest.raises(CheckpointError, match="older ones are untouched"):
        write_checkpoint(root, example(9))
    assert newest_checkpoint(root)[0].step == 6


def test_a_damaged_checkpoint_of_the_same_step_is_replaced(root):
    """A resumed run takes the step again and saves it again."""
    flip(root / "step-00000006")
    write_checkpoint(root, example(6))
    assert newest_checkpoint(root)[1] == []


def test_nested_state_comes_apart_and_together():
    """Tensors go to safetensors, the rest to JSON, names keep their dots."""
    state = {
        "teacher": {"averaged.w": torch.ones(2), "_extra_state": {"step": 3, "kernel": {"name": "beta", "a": 0.5}}},
        "empty": {},
        "flag": True,
    }
    tensors, plain = split_state(state)
    assert list(tensors) == ["teacher/averaged.w"]
    again = join_state(tensors, json.loads(json.dumps(plain)))
    assert torch.equal(again["teacher"].pop("averaged.w"), state["teacher"].pop("averaged.w"))
    assert again == state


def test_non_finite_plain_state_is_refused(tmp_path):
    """JSON has no NaN, so the write fails rather than the read."""
    with pytest.raises(ValueError, match="JSON"):
        write_checkpoint(tmp_path, Checkpoint(1, {}, {"x": float("nan")}))
