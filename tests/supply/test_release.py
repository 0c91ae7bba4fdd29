"""A release names itself once: package, citation and changelog agree."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_citation_and_changelog_name_the_version_of_the_package():
    """The changelog's newest entry is the version, or ``[Unreleased]`` with the version that it is going to be."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    newest = (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1]
    assert re.search(r"\d+\.\d+\.\d+", newest).group() == version
    assert (ROOT / "LICENSE").is_file()
