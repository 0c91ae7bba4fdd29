"""A run that was cut off and resumed is the unbroken run, to the last byte."""

import copy
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from tests.runs import STEPS, TRAIN, Cut, contents, cut_at, finetune
from tracerft import running
from tracerft.errors import RunFolderError, StateError
from tracerft.methods import METHODS as TABLE
from tracerft.sources import WITH_ANCHORS
from tracerft.training import trainer

METHODS = [name for name, info in TABLE.items() if info.build is not None and info.trains and name not in WITH_ANCHORS]


@pytest.fixture(autouse=True)
def _no_report(monkeypatch):
    monkeypatch.setattr(running, "write_run_report", lambda folder: (folder / "report.html").write_text(""))


@pytest.fixture(scope="module")
def unbroken(small_model, digits_folder, tmp_path_factory):
    """Contents of the unbroken run of a method and a checkpoint interval, made once."""
    made = {}

    def get(method, every=1):
        if (method, every) not in made:
            out = tmp_path_factory.mktemp("unbroken") / "run"
            finetune(small_model, digits_folder, out, method=method, train={"checkpoint_every": every})
            made[method, every] = contents(out)
        return made[method, every]

    return get


@pytest.mark.parametrize(
    ("method", "step"),
    [*((m, k) for m in METHODS for k in (1, 3, STEPS)), ("tracer", STEPS - 1), ("sd_ema", STEPS - 1)],
)
def test_a_run_cut_at_any_step_resumes_to_the_same_bytes(method, step, unbroken, small_model, digits_folder, tmp_path):
    """Weights, optimiser, teacher, log, predictions and results equal those of the unbroken run."""
    with pytest.raises(Cut):
        finetune(small_model, digits_folder, tmp_path, method=method, progress=cut_at(step))
    assert not (tmp_path / "record.json").exists()
    finetune(small_model, digits_folder, tmp_path, method=method, resume=True)
    assert contents(tmp_path) == unbroken(method)


@pytest.mark.parametrize("step", [1, 4, 5])
def test_steps_after_the_last_checkpoint_are_taken_again(step, unbroken, small_model, digits_folder, tmp_path):
    """A checkpoint every three steps: the log holds no step twice, and nothing differs."""
    every = {"checkpoint_every": 3}
    with pytest.raises(Cut):
        finetune(small_model, digits_folder, tmp_path, train=every, progress=cut_at(step))
    finetune(small_model, digits_folder, tmp_path, train=every, resume=True)
    assert contents(tmp_path) == unbroken("tracer", 3)


def test_a_run_cut_many_times_is_the_unbroken_run(unbroken, small_model, digits_folder, tmp_path):
    """Every single step in a process of its own, as far as the program can tell."""
    for step in range(1, STEPS + 1):
        with pytest.raises(Cut):
            finetune(small_model, digits_folder, tmp_path, resume=step > 1, progress=cut_at(step))
    finetune(small_model, digits_folder, tmp_path, resume=True)
    assert contents(tmp_path) == unbroken("tracer")


def test_a_run_killed_inside_the_teacher_update_resumes_to_the_same_bytes(
    unbroken, small_model, digits_folder, tmp_path
):
    """SIGKILL between the optimiser step and the end of `WMATeacher.update`, in a process of its own."""
    code = f"""
import os, signal, torch, tracerft
from tracerft.averaging import WMATeacher, storage
torch.set_num_threads(1)
absorb, calls = storage.absorb, []
def killed(*arguments):
    absorb(*arguments)
    calls.append(1)
    if len(calls) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
storage.absorb = killed
tracerft.finetune({str(small_model)!r}, data={str(digits_folder)!r}, out={str(tmp_path / "run")!r}, train={TRAIN!r})
"""
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
    assert done.returncode == -signal.SIGKILL
    finetune(small_model, digits_folder, tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == unbroken("tracer")


def of_optimizer(key, change):
    """A mutation of every optimiser tensor of one kind."""

    def mutate(checkpoint):
        tensors = {n: change(t) if n.endswith(f"::{key}") else t for n, t in checkpoint.parts["optimizer"].items()}
        return replace(checkpoint, parts=checkpoint.parts | {"optimizer": tensors})

    return mutate


def of_part(part, change):
    """A mutation of every tensor of a part."""

    def mutate(checkpoint):
        tensors = {n: change(t) for n, t in checkpoint.parts[part].items()}
        return replace(checkpoint, parts=checkpoint.parts | {part: tensors})

    return mutate


def of_clock(key, value):
    """A mutation of the teacher's plain state."""

    def mutate(checkpoint):
        state = copy.deepcopy(checkpoint.state)
        assert key in state["method"]["teacher"]["_extra_state"]
        state["method"]["teacher"]["_extra_state"][key] = value
        return replace(checkpoint, state=state)

    return mutate


MUTATIONS = {
    "student": of_part("student", lambda t: t + 1e-3),
    "teacher": of_part("method", lambda t: t + 1e-3),
    "optimiser left out": lambda c: replace(c, parts=c.parts | {"optimizer": {}}),
    "first moment": of_optimizer("exp_avg", torch.zeros_like),
    "second moment": of_optimizer("exp_avg_sq", lambda t: t * 2),
    "optimiser step": of_optimizer("step", lambda t: t - 1),
    "teacher step": of_clock("step", 2),
    "teacher weight sum": of_clock("log_total", 0.5),
    "step counter": lambda c: replace(c, step=c.step - 1),
    "log offset": lambda c: replace(c, state=c.state | {"log_bytes": 0}),
}


def resumed_with(mutate, monkeypatch, arguments, out):
    """What the resumed run leaves if the checkpoint is changed on its way in; the error if it refuses."""
    with pytest.raises(Cut):
        finetune(*arguments, out, progress=cut_at(3))
    read = trainer.newest_checkpoint

    def changed(root):
        checkpoint, problems = read(root)
        return mutate(checkpoint), problems

    monkeypatch.setattr(trainer, "newest_checkpoint", changed)
    try:
        finetune(*arguments, out, resume=True)
    except Exception as error:
        return error
    return contents(out)


@pytest.mark.parametrize("item", MUTATIONS)
def test_each_item_of_state_is_needed(item, unbroken, monkeypatch, small_model, digits_folder, tmp_path):
    """The negative control: with any item of state lost or changed at restore, the comparison fails."""
    result = resumed_with(MUTATIONS[item], monkeypatch, (small_model, digits_folder), tmp_path)
    assert result != unbroken("tracer")


def test_the_control_itself_changes_nothing(unbroken, monkeypatch, small_model, digits_folder, tmp_path):
    """The same detour without a change gives the unbroken run."""
    result = resumed_with(lambda checkpoint: checkpoint, monkeypatch, (small_model, digits_folder), tmp_path)
    assert result == unbroken("tracer")


def test_anchors_and_pretrained_weights_come_back(monkeypatch, unbroken, small_model, digits_folder, tmp_path):
    """The method state of L2-SP and WiSE-FT decides the result too."""
    for method in ("contrastive_l2_sp", "wise_ft"):
        out = tmp_path / method
        with pytest.raises(Cut):
            finetune(small_model, digits_folder, out, method=method, progress=cut_at(3))
        read = trainer.newest_checkpoint
        shift = of_part("method", lambda t: t + 1e-2)
        with monkeypatch.context() as patch:
            patch.setattr(trainer, "newest_checkpoint", lambda root, r=read, s=shift: (s(r(root)[0]), []))
            finetune(small_model, digits_folder, out, method=method, resume=True)
        assert contents(out) != unbroken(method)


@pytest.mark.parametrize(
    ("change", "diff"),
    [
        ({"train": {"lr": 2e-2}}, "train.lr: 0.01 then, 0.02 now"),
        ({"train": {"seed": 5}}, "train.seed: 0 then, 5 now"),
        ({"train": {"steps": 7}}, "train.steps: 6 then, 7 now"),
        ({"digits": {"agreement": 0.5}}, "digits.agreement: 0.95 then, 0.5 now"),
        ({"method": "flyp"}, "method: 'tracer' then, 'flyp' now"),
    ],
)
@pytest.mark.parametrize("every", [1, 0])
def test_resume_with_another_setting_names_it_and_both_values(
    change, diff, every, small_model, digits_folder, tmp_path
):
    """Also before the first checkpoint was written."""
    with pytest.raises(Cut):
        finetune(small_model, digits_folder, tmp_path, train={"checkpoint_every": every}, progress=cut_at(2))
    train = {"checkpoint_every": every} | change.get("train", {})
    with pytest.raises(StateError) as caught:
        finetune(small_model, digits_folder, tmp_path, resume=True, **change | {"train": train})
    assert diff in str(caught.value)


def test_resume_with_other_data_or_weights_of_the_same_name_is_refused(small_model, digits_folder, tmp_path):
    """Paths can stay while contents change, so hashes are compared."""
    for what in ("data", "model"):
        folder = tmp_path / what
        changed = {"data": folder / "copy", "model": folder / "copy"}[what]
        original = {"data": digits_folder, "model": small_model}[what]
        changed.mkdir(parents=True)
        for file in original.iterdir():
            (changed / file.name).write_bytes(file.read_bytes())
        model, data = (changed, digits_folder) if what == "model" else (small_model, changed)
        with pytest.raises(Cut):
            finetune(model, data, folder / "run", progress=cut_at(2))
        name = "model.safetensors" if what == "model" else "train-images-idx3-ubyte"
        raw = bytearray((changed / name).read_bytes())
        raw[-5 if what == "model" else 400] ^= 1  # the last images are held out of training
        (changed / name).write_bytes(raw)
        with pytest.raises(StateError, match=f"{what}_sha256"):
            finetune(model, data, folder / "run", resume=True)


def test_resume_of_nothing_is_refused(small_model, digits_folder, tmp_path):
    """There must be a config.yaml."""
    with pytest.raises(RunFolderError, match="nothing to resume"):
        finetune(small_model, digits_folder, tmp_path / "none", resume=True)


def test_a_finished_run_is_returned_as_it_is(small_model, digits_folder, tmp_path):
    """Resuming it trains nothing."""
    first = finetune(small_model, digits_folder, tmp_path)
    again = finetune(small_model, digits_folder, tmp_path, resume=True, progress=cut_at(1))
    assert again.record == first.record


def test_a_damaged_newest_checkpoint_is_passed_over_aloud(unbroken, small_model, digits_folder, tmp_path):
    """A flipped bit: a warning names the file, the older checkpoint is used, the result is the same."""
    with pytest.raises(Cut):
        finetune(small_model, digits_folder, tmp_path, progress=cut_at(4))
    part = tmp_path / "checkpoints" / "step-00000004" / "student.safetensors"
    raw = bytearray(part.read_bytes())
    raw[-1] ^= 1
    part.write_bytes(raw)
    with pytest.warns(UserWarning, match=r"step-00000004.student\.safetensors"):
        finetune(small_model, digits_folder, tmp_path, resume=True)
    assert contents(tmp_path) == unbroken("tracer")
