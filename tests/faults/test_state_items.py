"""The negative control of resuming: every item of a checkpoint, lost or changed at restore, is noticed."""

import copy
import shutil
from dataclasses import replace

import pytest
import torch

from tests.runs import Cut, contents, cut_at, finetune
from tracerft import running
from tracerft.errors import StateError
from tracerft.training import trainer
from tracerft.training.checkpoint import Checkpoint, newest_checkpoint

CLOCK = "method/teacher/_extra_state/"
ITEMS = (
    "step", "log_bytes", "student", "method", "optimizer::exp_avg", "optimizer::exp_avg_sq", "optimizer::step",
    *(f"{CLOCK}{name}" for name in (
        "buffers", "kernel/a", "kernel/b", "kernel/name", "log_total", "step", "total_steps", "trainable_only",
        "update_every", "weighting",
    )),
)  # fmt: skip
PARTS = ("student", "method", "optimizer")
DERIVED = f"{CLOCK}log_pretrained_weight"  # for readers of the file: the clock computes it from the rest


@pytest.fixture(autouse=True)
def _no_report(monkeypatch):
    monkeypatch.setattr(running, "write_run_report", lambda folder: (folder / "report.html").write_text(""))


@pytest.fixture(scope="module")
def runs(small_model, digits_folder, tmp_path_factory):
    """A run cut off after step 3, and what the unbroken one leaves."""
    folder = tmp_path_factory.mktemp("items")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "write_run_report", lambda out: (out / "report.html").write_text(""))
        finetune(small_model, digits_folder, folder / "whole")
        with pytest.raises(Cut):
            finetune(small_model, digits_folder, folder / "cut", progress=cut_at(3))
    return folder / "cut", contents(folder / "whole")


def leaves(state, prefix=""):
    """Plain values of a nested state by ``/``-joined name, the fingerprint left out."""
    for key, value in state.items():
        if key == "fingerprint":
            continue
        yield from leaves(value, f"{prefix}{key}/") if isinstance(value, dict) else [f"{prefix}{key}"]


def items(checkpoint: Checkpoint):
    """Names of all state: kinds of tensors and plain values."""
    kinds = {f"{part}::{name.rpartition('::')[2]}" if "::" in name else part
             for part, tensors in checkpoint.parts.items() for name in tensors}  # fmt: skip
    return {"step", *kinds, *leaves(checkpoint.state)}


def other(value):
    """A value of the same kind."""
    if torch.is_tensor(value):
        return value * 1.5 + 1e-3
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return f"{value}x"
    return 1 if value is None else value + 1


def changed(checkpoint: Checkpoint, item: str) -> Checkpoint:
    """The checkpoint with one item changed."""
    if item == "step":
        return replace(checkpoint, step=checkpoint.step + 1)
    part, _, kind = item.partition("::")
    if part in checkpoint.parts and "/" not in item:
        tensors = {n: other(t) if n.endswith(kind and f"::{kind}") else t for n, t in checkpoint.parts[part].items()}
        return replace(checkpoint, parts=checkpoint.parts | {part: tensors})
    state = copy.deepcopy(checkpoint.state)
    *path, last = item.split("/")
    inner = state
    for key in path:
        inner = inner[key]
    inner[last] = other(inner[last])
    return replace(checkpoint, state=state)


def lost(checkpoint: Checkpoint, part: str) -> Checkpoint:
    """The checkpoint without the tensors of a part."""
    return replace(checkpoint, parts=checkpoint.parts | {part: {}})


def resumed(runs, change, item, arguments, out, monkeypatch):
    """What a copy of the cut run leaves if its checkpoint is changed on the way in; the error if that is refused."""
    shutil.copytree(runs[0], out)
    monkeypatch.setattr(trainer, "newest_checkpoint", lambda root: (change(newest_checkpoint(root)[0], item), []))
    try:
        finetune(*arguments, out, resume=True)
    except Exception as error:
        return error
    return contents(out)


def test_the_list_of_items_is_what_a_checkpoint_holds(runs):
    """So that state which is added later is asked for here."""
    checkpoint, _ = newest_checkpoint(runs[0] / "checkpoints")
    assert items(checkpoint) == {*ITEMS, DERIVED}
    assert set(checkpoint.parts) == set(PARTS)
    assert len(ITEMS) + len(PARTS) >= 14


@pytest.mark.parametrize(
    ("change", "item"), [*((changed, item) for item in ITEMS), *((lost, part) for part in PARTS)],
    ids=[*(f"{item} changed" for item in ITEMS), *(f"{part} lost" for part in PARTS)],
)  # fmt: skip
def test_each_item_is_needed(change, item, runs, small_model, digits_folder, tmp_path, monkeypatch):
    """The result differs, or the checkpoint is refused."""
    assert resumed(runs, change, item, (small_model, digits_folder), tmp_path / "run", monkeypatch) != runs[1]


def test_what_is_derived_is_not_needed_and_the_detour_changes_nothing(
    runs, small_model, digits_folder, tmp_path, monkeypatch
):
    """The control of the control."""
    assert resumed(runs, changed, DERIVED, (small_model, digits_folder), tmp_path / "run", monkeypatch) == runs[1]


def test_each_entry_of_the_fingerprint_is_compared(runs):
    """Configuration, data and start, one by one, changed or lost; the error names the entry."""
    saved = newest_checkpoint(runs[0] / "checkpoints")[0].state["fingerprint"]
    assert {"data_sha256", "model_sha256", "train.lr", "train.seed", "method"} <= set(saved)
    for key, value in saved.items():
        rest = {k: v for k, v in saved.items() if k != key}
        for now in ({**saved, key: [value]}, rest) if value is not None else ({**saved, key: [value]},):
            with pytest.raises(StateError) as caught:
                trainer.refuse_changes(saved, now)
            assert f"{key}: " in str(caught.value)
