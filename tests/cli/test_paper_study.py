"""`tracerft study paper`: what reaches the study, and the plan that the documentation shows."""

from pathlib import Path

import pytest

from tracerft.cli import study
from tracerft.studies import paper

PAGE = Path(__file__).parents[2] / "docs" / "paper-tables.md"


def test_options_reach_the_study(monkeypatch, capsys):
    """Folder, backbone, tables in their order, length, and what is only tabled."""
    seen = {}

    def run(world, backbone, tables, **options):
        seen.update(options, world=world, backbone=backbone, tables=tables)
        raise KeyboardInterrupt  # there is no study.json to show

    monkeypatch.setattr(paper, "run", run)
    told = "--imagenet there --backbone RN50 --tables 6,3 --out here --seeds 2 --model tiny --steps 7 --batch_size 8"
    with pytest.raises(KeyboardInterrupt):
        study.run(["paper", *told.split(), "--workers", "4", "--finished"])
    base = seen["world"].base
    assert (base.data, base.suite, base.model) == ("there/train", "here/suite.yaml", "tiny")
    assert (base.train.steps, base.train.batch_size, base.train.precision) == (7, 8, "bf16")
    assert (seen["backbone"], seen["tables"], len(seen["world"].starts)) == ("RN50", ("3", "6"), 2)
    assert (seen["only_finished"], seen["workers"]) == (True, 4)
    assert seen["command"].startswith("tracerft study paper --imagenet there")
    assert capsys.readouterr().out == ""


def test_the_page_shows_what_the_command_prints(monkeypatch, capsys):
    """Each plan on the page; it needs no folder, and says what it does not know."""
    monkeypatch.setenv("COLUMNS", "100")
    page = PAGE.read_text(encoding="utf-8")
    shown = [line for line in page.splitlines() if line.startswith("$ tracerft study paper --dry_run")]
    assert len(shown) == 2
    for line in shown:
        study.run(line.split()[3:])
        printed = "\n".join(of.rstrip() for of in capsys.readouterr().out.splitlines())
        assert f"{line}\n{printed}\n```" in page, f"COLUMNS=100 {line[2:]}"
