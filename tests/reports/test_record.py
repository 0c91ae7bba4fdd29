"""JSON is written whole or not at all; a record is read only when its run finished."""

import json
import math
import os
import platform
import socket
from pathlib import Path

import pytest

from tests.reports.example import record
from tracerft.errors import ArgumentError, DataError
from tracerft.reports.record import READABLE_SERIES, environment, read_record, write_json


def test_what_is_written_is_read_back(tmp_path):
    """Unicode and floats survive; nothing else is left in the folder."""
    value = {"ü": [1, 0.1, None, True, "\u202e🦊"]}
    write_json(tmp_path / "new" / "a.json", value)
    assert json.loads((tmp_path / "new" / "a.json").read_text(encoding="utf-8")) == value
    assert os.listdir(tmp_path / "new") == ["a.json"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_crash_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch, step):
    """The disk fails while the new file is written or renamed."""
    path = tmp_path / "record.json"
    write_json(path, {"old": 1})

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="disk full"):
        write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}
    assert os.listdir(tmp_path) == ["record.json"]


def test_the_file_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Order: sync the content, rename within the folder, sync the folder."""
    calls = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("sync"), sync(handle)))
    monkeypatch.setattr(
        os, "replace", lambda a, b: (calls.append(("rename", Path(a).parent == Path(b).parent)), replace(a, b))
    )
    write_json(tmp_path / "a.json", {})
    assert calls == ["sync", ("rename", True), "sync"]


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"results": {"id": {"nll": math.nan}}}, r"value\.results\.id\.nll = nan"),
        ([1.0, [math.inf]], r"value\[1\]\[0\] = inf"),
        ({"path": Path("x")}, r"value\.path of type"),
    ],
)
def test_values_that_json_lacks_are_refused_with_their_place(tmp_path, value, place):
    """NaN is not JSON; nothing is written."""
    with pytest.raises(ArgumentError, match=place):
        write_json(tmp_path / "a.json", value)
    assert not os.listdir(tmp_path)


def test_a_finished_record_is_read(tmp_path):
    """As it was written."""
    write_json(tmp_path / "record.json", record())
    assert read_record(tmp_path) == record()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"status": "running"}, "--resume"),
        ({"tracerft": "7.0.0"}, "written by tracerft 7.0.0"),
        ({"tracerft": None}, "written by tracerft None"),
        ({"results": None}, "`results`"),
    ],
)
def test_other_records_are_refused_with_a_cure(tmp_path, change, words):
    """Unfinished, of another release, or without results."""
    write_json(tmp_path / "record.json", {**record(), **change})
    with pytest.raises(DataError, match=words) as caught:
        read_record(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b'{"tracerft": "0.', b"[]", b"\xff\xfe"])
def test_missing_and_damaged_records_are_refused_with_a_cure(tmp_path, content):
    """One line that says how to go on."""
    if content is not None:
        (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(DataError, match="--resume") as caught:
        read_record(tmp_path)
    assert "\n" not in str(caught.value)


def test_this_release_reads_its_own_records():
    """A new release series must decide whether the layout changed."""
    version = str(environment()["tracerft"])
    assert ".".join(version.split(".")[:2]) in READABLE_SERIES


def test_the_environment_names_versions_and_nobody(tmp_path):
    """Plain data without host name, user or path."""
    found = environment()
    write_json(tmp_path / "e.json", found)
    assert found["python"] == platform.python_version()
    assert found["torch"]
    assert isinstance(found["torch_threads"], int)
    text = json.dumps(found)
    assert "/" not in text
    assert socket.gethostname() not in text
