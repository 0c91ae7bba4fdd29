"""Compiled towers: the same steps and names, no silent way around. Only the slow test makes machine code."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.conftest import SMALL
from tests.image_runs import config, finetune, make_data
from tests.models.small import folder
from tests.runs import Cut, contents, cut_at
from tests.runs import finetune as run_digits
from tests.training import shard_runs
from tests.training.ranks import run_ranks
from tracerft import load_model
from tracerft.config_rules import check
from tracerft.errors import ArgumentError, StateError
from tracerft.models import compiling
from tracerft.models.tiny import TinyDualEncoder
from tracerft.models.weights import load_tensors

# Dynamo looks at .grad of what a tower is given and hides the warning only where warnings are not errors.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pictures in class folders, with captions."""
    return make_data(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def graphs(monkeypatch):
    """How many times a graph has run, by where it was traced; nothing is compiled to machine code."""
    torch._dynamo.reset()
    ran: list[int] = []

    def backend(graph, _inputs):
        number = len(ran)
        ran.append(0)

        def run(*arguments):
            ran[number] += 1
            return graph.forward(*arguments)

        return run

    monkeypatch.setattr(compiling, "BACKEND", backend)
    yield ran
    torch._dynamo.reset()


def logs_alike(compiled: Path, plain: Path) -> int:
    """Lines of two logs, whose numbers are the same up to rounding."""
    of, expected = (
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (compiled, plain)
    )
    for line, other in zip(of, expected, strict=True):
        assert line == pytest.approx(other, rel=1e-4, abs=1e-6)
    return len(of)


def assert_alike(compiled: Path, plain: Path) -> None:
    """Every logged loss, term and norm, up to the rounding of three steps, and the same names in every weight file.

    Weights are no measure: a bias of keys has no gradient but rounding, which Adam scales to a step.
    """
    assert logs_alike(compiled, plain) == 3
    files = [path.relative_to(plain) for path in plain.rglob("*.safetensors") if "predictions" not in path.parts]
    assert len(files) >= 5  # student and teacher, and three parts of a checkpoint
    for name in files:
        assert list(load_tensors(compiled / name)) == list(load_tensors(plain / name)), name


def test_a_compiled_run_is_the_plain_one_and_resumes(data, tmp_path, graphs):
    """Student and teacher run graphs; names and numbers are the plain run's; cut and resumed, the same bytes."""
    plain = finetune(data / "photos", tmp_path / "plain").folder
    assert graphs == []
    compiled = finetune(data / "photos", tmp_path / "compiled", train={"compile": True}).folder
    assert len(graphs) >= 4  # two towers, with gradient for the student and without for the teacher
    assert sum(graphs) >= 3 * 2 * 2  # steps, towers, models
    assert_alike(compiled, plain)
    with pytest.raises(Cut):
        finetune(data / "photos", tmp_path / "cut", train={"compile": True}, progress=cut_at(2))
    with pytest.raises(StateError, match=r"train\.compile: True then, False now"):
        finetune(data / "photos", tmp_path / "cut", resume=True)
    torch._dynamo.reset()
    finetune(data / "photos", tmp_path / "cut", train={"compile": True}, resume=True)
    assert contents(tmp_path / "cut") == contents(compiled)


@pytest.mark.slow
@pytest.mark.parametrize("more", [{"accumulate": 2}, {"precision": "bf16"}], ids=["chunks", "bf16"])
def test_compiled_runs_in_chunks_and_in_bf16_are_the_plain_ones(more, data, tmp_path, graphs):
    """Two passes a chunk, and autocast around the graphs."""
    plain = finetune(data / "photos", tmp_path / "plain", train=more).folder
    assert graphs == []
    compiled = finetune(data / "photos", tmp_path / "compiled", train={"compile": True} | more).folder
    assert sum(graphs) >= 3 * 2 * 2
    assert_alike(compiled, plain)


@pytest.mark.slow
def test_a_run_compiled_by_inductor_is_the_plain_one(data, tmp_path):
    """Machine code of torch's own compiler."""
    torch._dynamo.reset()
    plain = finetune(data / "photos", tmp_path / "plain").folder
    compiled = finetune(data / "photos", tmp_path / "compiled", train={"compile": True}).folder
    assert_alike(compiled, plain)
    a, b = (load_tensors(run / "student/open_clip_model.safetensors") for run in (compiled, plain))
    assert any(not torch.equal(a[name], b[name]) for name in a)  # else nothing was compiled


@pytest.mark.slow
def test_two_ranks_compile_what_one_process_runs_plainly(small_model, digits_folder, tmp_path):
    """Graphs of 8 and 7 rows; the log is that of one process."""
    run_ranks(shard_runs.compiled, 2, tmp_path / "two", small_model, digits_folder)
    train = {"batch_size": 15, "probe_every": 0}
    plain = run_digits(small_model, digits_folder, tmp_path / "one", train=train).folder
    assert logs_alike(tmp_path / "two" / "compiled", plain) > 0


@pytest.mark.parametrize(
    "kind", ["custom-text", "tiny", *(pytest.param(k, marks=pytest.mark.slow) for k in ("siglip", "resnet"))]
)
def test_towers_of_each_family_are_one_graph_each(kind, graphs):
    """Before and after, the state dict has the same names; gradients flow."""
    model = TinyDualEncoder(SMALL) if kind == "tiny" else load_model(folder(kind)).model
    names = list(model.state_dict())
    compiling.compile_towers(model)
    assert len(graphs) == 2
    assert list(model.state_dict()) == names
    images, tokens = compiling.example_input(model)
    (model.encode_image(images).sum() + model.encode_text(tokens).sum()).backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if n not in ("logit_scale", "logit_bias"))


class Broken(nn.Module):
    """A tower that no graph can hold."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images):
        """The inner tower's, after a look at a number."""
        return self.inner(images) if float(images.sum()) else self.inner(2 * images)


def test_what_cannot_be_compiled_is_refused_and_left_as_it_was(graphs, monkeypatch):
    """A break in the graph, and a backend that computes something else."""
    model = TinyDualEncoder(SMALL)
    model.visual = Broken(model.visual)
    with pytest.raises(ArgumentError, match=r"`train.compile` must be false for this TinyDualEncoder: torch cannot"):
        compiling.compile_towers(model)
    assert all(module._compiled_call_impl is None for module in model.modules())
    monkeypatch.setattr(
        compiling, "BACKEND", lambda graph, _: lambda *a: [out + torch.arange(out.shape[-1]) for out in graph(*a)]
    )
    torch._dynamo.reset()
    with pytest.raises(ArgumentError, match="its embeddings change by"):
        compiling.compile_towers(TinyDualEncoder(SMALL))


def test_adapters_and_inner_features_are_refused(data, tmp_path, graphs):
    """With one line, before a run's folder is made or anything is compiled."""
    with pytest.raises(ArgumentError, match=r"`train.compile` must be false with lora.rank"):
        check(config(data / "photos", train={"compile": True}, lora={"rank": 2}))
    with pytest.raises(ArgumentError, match=r"`train.compile` must be false for `method` ldifs"):
        finetune(data / "photos", tmp_path / "run", method="ldifs", train={"compile": True})
    assert not (tmp_path / "run").exists()
    assert graphs == []
