"""Every dependency says why it is there and is pinned, and an audit that could not be made does not look like one."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.supply.audit import pins, verdict

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = sorted({*PROJECT["dependencies"], *(r for extra in EXTRAS.values() for r in extra)})
OTHERS = [Requirement(text) for text in REQUIREMENTS if not text.startswith("tracerft[")]
PINS = pins((ROOT / "constraints.txt").read_text())
TWO = {"a-b": "1", "c": "2"}


@pytest.mark.parametrize("requirement", OTHERS, ids=str)
def test_dependency_is_explained_and_pinned(requirement):
    """A comment of some words stands behind it, and constraints.txt pins a version that it allows."""
    written = re.escape(requirement.name) + r"[^\"]*\"[\],]*\s*# \w+.* \w+"
    assert re.search(rf'"{written}', (ROOT / "pyproject.toml").read_text()), "no reason in a comment"
    version = PINS.get(canonicalize_name(requirement.name))
    assert version is not None, "no pin"
    assert requirement.specifier.contains(version)


def answer(**vulns) -> str:
    """What pip-audit prints, in the fields that its manual names."""
    names = {"a_b": "A.B", "c": "c"}
    listed = [{"name": names[k], "version": "1", "vulns": [{"id": i} for i in v]} for k, v in vulns.items()]
    return json.dumps({"dependencies": listed, "fixes": []})


@pytest.mark.parametrize(
    ("output", "code", "says"),
    [
        (answer(a_b=[], c=[]), 0, "2 of 2 pinned packages audited"),
        (answer(a_b=["X-1"], c=[]), 1, "1 of 2 .* A.B 1: X-1"),
        (answer(a_b=[]), 2, "NOT AUDITED: 1 of 2 .* differing: c"),
        ('{"dependencies": [{"name": "a-b", "skip_reason": "x"}, {"name": "c", "vulns": []}]}', 2, "differing: a-b"),
        ("", 2, r"NOT AUDITED: .*\(no route\)"),
    ],
)
def test_audit_counts_what_was_asked(output, code, says):
    """Fewer answers than pins are no clean audit, and neither is silence."""
    found, line = verdict(output, "warning\nno route\n", TWO)
    assert found == code
    assert re.search(says, line)


def test_what_is_no_pin_is_refused():
    """A range would be audited as nothing."""
    assert pins("# why\nA_b==1  # x\n") == {"a-b": "1"}
    with pytest.raises(ValueError, match="is no pin"):
        pins("a>=1\n")
