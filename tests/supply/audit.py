"""`make audit`: asks pip-audit for known weaknesses of every pinned package, and says so when it could not ask.

Runs in the environment of pip-audit, so it imports the standard library only.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

PIN = re.compile(r"([A-Za-z0-9._-]+)==(\S+)")


def pins(text: str) -> dict[str, str]:
    """``{normalised name: version}`` of a constraints file.

    Raises:
        ValueError: if a line is neither a pin, a comment nor empty.
    """
    found = {}
    for line in (line.partition("#")[0].strip() for line in text.splitlines()):
        match = PIN.fullmatch(line)
        if match:
            found[normalised(match[1])] = match[2]
        elif line:
            raise ValueError(f"{line!r} is no pin; expected NAME==VERSION")
    return found


def normalised(name: str) -> str:
    """A package's name as PyPA's specification of names compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def verdict(output: str, said: str, pinned: dict[str, str]) -> tuple[int, str]:
    """Exit code and line: 0 clean, 1 weaknesses found, 2 not everything could be asked.

    Args:
        output: JSON of pip-audit, empty if it gave up.
        said: what it printed beside that.
        pinned: as `pins` gives them.
    """
    try:
        listed: list[dict[str, Any]] = json.loads(output)["dependencies"]
    except (ValueError, KeyError, TypeError):
        reason = (said.strip().splitlines() or ["no reason given"])[-1]
        return 2, f"NOT AUDITED: pip-audit gave no answer ({reason}); run again where it reaches its advisories"
    audited = {normalised(entry["name"]) for entry in listed if "vulns" in entry}
    if audited != pinned.keys():
        missing = ", ".join(sorted(pinned.keys() ^ audited))
        return 2, f"NOT AUDITED: {len(audited)} of {len(pinned)} pinned packages were asked for; differing: {missing}"
    weak = [f"{e['name']} {e['version']}: {', '.join(v['id'] for v in e['vulns'])}" for e in listed if e["vulns"]]
    if weak:
        return 1, f"{len(weak)} of {len(pinned)} pinned packages have known weaknesses: {'; '.join(weak)}"
    return 0, f"{len(pinned)} of {len(pinned)} pinned packages audited; no known weakness"


def main(constraints: Path) -> int:
    """Audit a constraints file; returns the exit code."""
    command = ["--strict", "--no-deps", "--disable-pip", "--progress-spinner", "off", "-f", "json", "-r"]
    asked = subprocess.run(
        [sys.executable, "-m", "pip_audit", *command, str(constraints)], capture_output=True, text=True, check=False
    )
    code, line = verdict(asked.stdout, asked.stderr, pins(constraints.read_text()))
    print(line, file=sys.stderr if code else sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
