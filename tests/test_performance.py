"""The benchmarks run, and docs/performance.md says what their files say."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = ROOT / "docs" / "results" / "benchmarks"
SMALL = {
    "step": ["--pairs", "4", "--width", "64", "--layers", "1"],
    "teacher": ["--parameters", "300000"],
    "loss": ["--pairs", "16", "--width", "8"],
    "input": ["--images", "2"],
    "evaluate": ["--images", "1", "--points", "3", "--width", "64", "--layers", "1"],
    "zero_shot": ["--classes", "1", "--width", "64", "--layers", "1"],
}


@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_runs_and_writes_its_file(name, monkeypatch, tmp_path, capsys):
    """Small sizes, two rounds: seconds of every side, ratios with quartiles, and a machine without a name."""
    out = tmp_path / "made" / "out.json"
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(sys, "argv", [name, *SMALL[name], "--rounds", "2", "--out", str(out)])
    runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py"), run_name="__main__")
    result = json.loads(out.read_text())
    assert result["benchmark"] == name
    assert all(seconds >= 0 for seconds in result["seconds"].values())
    sides = {side for label in result["ratios"] for side in label.split(" / ")}
    assert sides <= set(result["seconds"])
    assert all(r["q25"] <= r["median"] <= r["q75"] for r in result["ratios"].values())
    assert set(result["machine"]) == {"device", "cores", "threads", "torch", "clock"}
    assert all(side in capsys.readouterr().out for side in [max(sides)])


def test_the_large_loss_is_compared_with_its_distinct_pairs(monkeypatch, tmp_path):
    """Eight times the same pairs, value and gradients as float64 has them; the reference needs no eight."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    out = tmp_path / "out.json"
    monkeypatch.setattr(
        sys, "argv", ["large_loss", "--pairs", "64", "--copies", "8", "--width", "16", "--out", str(out)]
    )
    runpy.run_path(str(ROOT / "benchmarks" / "large_loss.py"), run_name="__main__")
    error = json.loads(out.read_text())["relative_error"]
    assert set(error) == {"tiled", "whole blocks"}
    for side in error.values():
        assert set(side) == {"total", "scale", "image", "text"}
        assert all(value < 1e-5 for value in side.values())


def test_the_memory_count_knows_what_lives_at_once(monkeypatch):
    """Two tensors of 1 MiB, the first freed before a third: 2 MiB, by hand."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import torch
    from memory import peak_mib

    there = torch.ones(2**18)

    def call():
        first = there + 1
        second = first + 1
        del first
        return second + 1

    assert peak_mib(call) == pytest.approx(2.0)


def test_the_document_says_what_the_files_say():
    """Every ratio and size of the table is in a file, and every ratio that is told has its quartiles."""
    known = set()
    for path in FILES.glob("*.json"):
        result = json.loads(path.read_text())
        known |= {f"{r['median']:.3f} [{r['q25']:.3f}, {r['q75']:.3f}]" for r in result.get("ratios", {}).values()}
        known |= {f"{size:.1f}" for size in result.get("peak_mib", {}).values()}
        known |= {f"{size:.1f}" for size in result.get("added_resident_mib", {}).values()}
        known |= {f"{error['image']:.1e}" for error in result.get("relative_error", {}).values()}
    text = (ROOT / "docs" / "performance.md").read_text()
    table = text.partition("<!-- numbers")[2].partition("<!-- /numbers -->")[0]
    told = re.findall(r"^\| [^|]+ \| ([^|]+?) \|", table, re.MULTILINE)[2:]  # without the head and its rule
    assert len(told) == 24
    assert [value for value in told if value not in known] == []
