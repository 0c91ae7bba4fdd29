"""docs/methods.md is what the command prints."""

from pathlib import Path

import pytest

from tracerft.cli.methods import markdown, run
from tracerft.errors import ArgumentError
from tracerft.methods import METHODS

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


def test_the_committed_page_is_what_the_command_prints(capsys):
    """Whoever changes the METHODS table writes the page again."""
    run(["--markdown"])
    assert capsys.readouterr().out == PAGE.read_text(encoding="utf-8"), "tracerft methods --markdown > docs/methods.md"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_row_and_a_section(name):
    """No method is left out of the page."""
    page = markdown()
    assert f"| [`{name}`](#{name}) |" in page
    assert f"\n### {name}\n" in page


def test_json_and_markdown_exclude_each_other():
    """Neither wins silently."""
    with pytest.raises(ArgumentError, match="choose one"):
        run(["--json", "--markdown"])
