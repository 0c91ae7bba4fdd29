"""`make sbom`: whether a bill of materials names every distribution that is installed, at its version.

A bill that lacks a package looks as good as a whole one, so it is compared with what the environment itself says.
"""

import json
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from tests.supply.audit import normalised, pins


def named(bill: dict[str, Any]) -> dict[str, str]:
    """``{normalised name: version}`` of the components of a CycloneDX bill, and of what it is a bill of.

    Raises:
        ValueError: if it is no bill in that format.
    """
    if bill.get("bomFormat") != "CycloneDX":
        raise ValueError(f"bomFormat must be CycloneDX; got {bill.get('bomFormat')!r}")
    root = bill.get("metadata", {}).get("component")
    return {
        normalised(c["name"]): c.get("version", "") for c in [*bill.get("components", []), *([root] if root else [])]
    }


def installed() -> dict[str, str]:
    """``{normalised name: version}`` of this interpreter's environment."""
    return {normalised(found.metadata["Name"]): found.version for found in distributions()}


def verdict(bill: dict[str, Any], found: dict[str, str], pinned: dict[str, str]) -> tuple[int, str]:
    """Exit code and line: 0 whole, 2 something is missing or of another version.

    Args:
        bill: CycloneDX.
        found: what is installed.
        pinned: as `pins` gives them, to tell how many are installed so.
    """
    listed = named(bill)
    wrong = sorted(name for name, version in found.items() if listed.get(name) != version)
    if wrong:
        many = f"{len(listed)} components for {len(found)} distributions"
        return 2, f"NO SBOM: {many}; missing or of another version: {', '.join(wrong)}"
    kept = sum(found.get(name) == version for name, version in pinned.items())
    return 0, f"{len(found)} of {len(found)} distributions are in the bill, {kept} of them at their pinned version"


def main(bill: Path, constraints: Path) -> int:
    """Check a bill of this environment; returns the exit code."""
    code, line = verdict(json.loads(bill.read_text()), installed(), pins(constraints.read_text()))
    print(line, file=sys.stderr if code else sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
