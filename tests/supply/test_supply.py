"""Every dependency says why it is there and is pinned, and an audit that could not be made does not look like one."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.supply import sbom
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


def bill(**versions) -> dict:
    """A CycloneDX bill in the fields that its specification names; the first component is what the bill is of."""
    (first, *rest) = [{"type": "library", "name": name, "version": version} for name, version in versions.items()]
    return {"bomFormat": "CycloneDX", "specVersion": "1.6", "metadata": {"component": first}, "components": rest}


@pytest.mark.parametrize(
    ("bill", "code", "says"),
    [
        (bill(tracerft="3", A_b="1", c="2"), 0, "3 of 3 distributions are in the bill, 2 of them"),
        (bill(tracerft="3", A_b="1"), 2, "NO SBOM: 2 components for 3 .*: c$"),
        (bill(tracerft="3", A_b="1", c="9"), 2, "NO SBOM: .*: c$"),
        (bill(tracerft="3", A_b="1", c=""), 2, "NO SBOM: .*: c$"),
        (bill(A_b="1", c="2"), 2, "NO SBOM: .*: tracerft$"),
    ],
)
def test_a_bill_of_materials_is_whole_or_none(bill, code, says):
    """Every installed distribution is in it, at its version; a pin of what is not installed changes nothing."""
    found, line = sbom.verdict(bill, {"tracerft": "3", **TWO}, TWO | {"not-here": "1"})
    assert found == code
    assert re.search(says, line)


def test_another_format_is_no_bill():
    """Such as SPDX."""
    with pytest.raises(ValueError, match="bomFormat must be CycloneDX"):
        sbom.named({"spdxVersion": "SPDX-2.3"})


def test_what_is_installed_is_asked_of_the_environment():
    """The tests themselves run in it, with every direct dependency of the package."""
    found = sbom.installed()
    wanted = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    assert wanted | {"pytest"} <= found.keys()


@pytest.mark.slow
@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="make writes the bill of .venv, and this is another")
def test_make_sbom_names_all_that_is_installed():
    """Skipped without a package index, where the bill is refused aloud."""
    done = subprocess.run(["make", "sbom"], cwd=ROOT, capture_output=True, text=True, check=False)
    if "cannot be installed" in done.stderr:
        pytest.skip("cyclonedx-bom cannot be installed")
    assert done.returncode == 0, done.stderr
    found, listed = sbom.installed(), sbom.named(json.loads((ROOT / "dist/sbom.json").read_text()))
    assert {name: listed[name] for name in PINS if name in found} == {n: v for n, v in PINS.items() if n in found}
