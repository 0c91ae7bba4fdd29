"""Numbers in the README come from files that commands wrote."""

import json
import re
from pathlib import Path

import pytest

from tracerft.reports.study import study_markdown

ROOT = Path(__file__).parent.parent


def block(name: str) -> str:
    """What stands between a pair of markers."""
    found = re.search(rf"<!-- {name}:.*?-->\n(.*?)<!-- /{name} -->", (ROOT / "README.md").read_text(), re.S)
    assert found, f"README.md has no block {name}"
    return found.group(1).strip()


def test_the_table_is_that_of_the_toy_study():
    """Rows and claims to the letter."""
    assert block("toy") == (ROOT / "docs/results/toy/table.md").read_text().strip()


@pytest.mark.parametrize("study", ["toy", "theory"])
def test_committed_tables_are_made_from_the_committed_results(study):
    """table.md is what study.json gives today, and study.json names command and commit."""
    folder = ROOT / "docs/results" / study
    made = json.loads((folder / "study.json").read_text())
    assert (folder / "table.md").read_text() == study_markdown(made)
    assert made["command"].startswith(f"tracerft study {study}")
    assert re.fullmatch(r"[0-9a-f]{40}", made["commit"])
