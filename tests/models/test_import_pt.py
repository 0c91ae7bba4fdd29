"""The sandboxed import of foreign PyTorch files."""
# ruff: noqa: S301 (pickles are what is tested)

import argparse
import pickle  # noqa: TID251 - makes the files that must be refused
import subprocess
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tracerft.errors import ArgumentError, DataError
from tracerft.models import import_worker
from tracerft.models.import_pt import file_sha256, import_pt, source_order


class Touch:
    """Pickles into a program that creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.path)!r}, 'w').close()",)


def example() -> OrderedDict[str, torch.Tensor]:
    """Three tensors in an order that is not alphabetic, one of them a view."""
    base = torch.arange(12.0).reshape(3, 4)
    return OrderedDict(z=base.T, a=torch.tensor(3), m=torch.ones(2, dtype=torch.bfloat16))


def test_a_state_dict_round_trips(tmp_path: Path) -> None:
    """Values, types and the source's order survive; a DDP prefix goes, options beside the weights do not matter."""
    inner = {f"module.{k}": v for k, v in example().items()}
    torch.save({"epoch": 3, "args": argparse.Namespace(lr=0.1), "state_dict": inner}, tmp_path / "x.pt")
    done = import_pt(tmp_path / "x.pt", tmp_path / "new" / "x.safetensors")
    back = load_file(done.path)
    assert done.num_tensors == 3
    assert done.sha256 == file_sha256(done.path)
    assert source_order(done.path) == ["z", "a", "m"]
    assert all(torch.equal(back[k], v) and back[k].dtype == v.dtype for k, v in example().items())
    assert [p.name for p in done.path.parent.iterdir()] == ["x.safetensors"]


def test_a_file_with_code_is_refused_and_the_code_does_not_run(tmp_path: Path) -> None:
    """The marker file never appears, nothing is written, and the one-line error names the call."""
    marker = tmp_path / "ran"
    torch.save({"w": torch.ones(1), "x": Touch(marker)}, tmp_path / "bad.pt")
    with pytest.raises(DataError, match=r"refused, it may run code \(it calls `exec`\)") as caught:
        import_pt(tmp_path / "bad.pt", tmp_path / "x.safetensors")
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.pt"]


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_bare_and_old_pickles_are_refused_alike(tmp_path: Path, protocol: int) -> None:
    """Files that torch.save did not write, and its format from before 1.6."""
    marker = tmp_path / "ran"
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Touch(marker), protocol=protocol))
    torch.save({"x": Touch(marker)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("bare", "old"):
        with pytest.raises(pickle.UnpicklingError) as caught:
            import_worker.read(tmp_path / f"{name}.pt")
        assert import_worker.diagnose(caught.value)["kind"] in ("code", "load")
    assert not marker.exists()


def test_the_guard_stops_what_the_unpickler_would_let_through(tmp_path: Path) -> None:
    """Second line of defence: inside it even a full unpickler writes no file and starts no process."""
    marker = tmp_path / "ran"
    with pytest.raises(import_worker.Refusal, match="open"), import_worker.guarded():
        pickle.loads(pickle.dumps(Touch(marker)))
    with pytest.raises(import_worker.Refusal, match=r"subprocess|fork|spawn"), import_worker.guarded():
        subprocess.run(["true"], check=False)
    assert not marker.exists()
    marker.write_text("the guard ends with its block")


def test_what_is_no_checkpoint_is_said_in_one_line(tmp_path: Path) -> None:
    """A web page through the whole path; missing file and wrong name before any process starts."""
    (tmp_path / "page.pt").write_text("<html>404</html>")
    with pytest.raises(DataError, match=r"page\.pt: not a PyTorch checkpoint, or damaged") as caught:
        import_pt(tmp_path / "page.pt", tmp_path / "o.safetensors")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="no such file"):
        import_pt(tmp_path / "none.pt", tmp_path / "o.safetensors")
    with pytest.raises(ArgumentError, match=r"must end in \.safetensors"):
        import_pt(tmp_path / "page.pt", tmp_path / "o.pt")
    with pytest.raises(DataError, match="more than `max_bytes`=10;"):
        import_pt(tmp_path / "page.pt", tmp_path / "o.safetensors", max_bytes=10)


def test_only_plain_tensors_pass() -> None:
    """A tensor, a mapping with other things, a wrong key, a sparse tensor: each with its reason."""
    cases: list[tuple[Any, str | None, str]] = [
        (torch.ones(2), None, "found a Tensor"),
        ({}, None, "an empty mapping"),
        ({"a": torch.ones(1), "b": "text"}, None, "'b' is a str"),
        ({"a": torch.eye(2).to_sparse()}, None, "'a' is not a dense tensor"),
        (example(), "ema", "no entry 'ema'; found: z, a, m"),
        ({"a": torch.ones(1).expand(1 << 20, 1 << 20)}, None, "take 4,398,046,511,104 bytes"),
    ]
    for value, key, text in cases:
        with pytest.raises(import_worker.Refusal, match=text):
            import_worker.plain(import_worker.state_dict(value, key), 1 << 30)


def test_every_allowed_type_says_why() -> None:
    """The allow-list is explained, and none of it is a function."""
    assert all(len(reason) > 20 for reason in import_worker.ALLOWED.values())
    assert all(name.rpartition(".")[2][0].isupper() for name in import_worker.ALLOWED)
