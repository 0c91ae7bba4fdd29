"""Links and anchors of the documentation lead somewhere, and the site's navigation and API page name what there is."""

import importlib
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import tracerft

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FROM_ELSEWHERE = {
    "tutorial.md": DOCS / "tutorial.py",
    "SECURITY.md": ROOT / "SECURITY.md",
    "CHANGELOG.md": ROOT / "CHANGELOG.md",
}
needs_mkdocs = pytest.mark.skipif(find_spec("mkdocs") is None, reason="needs mkdocs, which `make docs` installs")


def markdown(file: Path) -> str:
    """A page without its code blocks; of the tutorial, its comments."""
    text = file.read_text("utf-8")
    if file.suffix == ".py":
        text = "\n".join(line[2:] for line in text.splitlines() if line.startswith("# "))
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def anchors(file: Path) -> set[str]:
    """What a repository's page calls its headings: small letters, no punctuation, hyphens, numbered when repeated."""
    found: list[str] = []
    for title in re.findall(r"^#+ (.*)", markdown(file), flags=re.M):
        slug = re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
        found.append(f"{slug}-{again}" if (again := found.count(slug)) else slug)
    return set(found)


def named(nav) -> list[str]:
    """Files of a navigation, in order."""
    if isinstance(nav, str):
        return [nav]
    return [file for entry in (nav.values() if isinstance(nav, dict) else nav) for file in named(entry)]


PAGES = [*sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("*.md")), DOCS / "tutorial.py"]


@pytest.mark.parametrize("page", PAGES, ids=[p.relative_to(ROOT).as_posix() for p in PAGES])
def test_links_lead_somewhere(page):
    """Every relative link is that of a file or folder that is there, and its anchor that of a heading in it."""
    for target in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", markdown(page)):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_the_navigation_names_files_that_are_there():
    """And none twice."""
    names = named(yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"])
    assert len(names) == len(set(names)) > 10
    missing = [name for name in names if not FROM_ELSEWHERE.get(name, DOCS / name).is_file()]
    assert not missing


def test_every_public_name_is_on_the_api_page():
    """`tracerft.__all__` to the last name, once each, and nothing that cannot be imported."""
    entries = re.findall(r"^::: (\S+)$", (DOCS / "api.md").read_text("utf-8"), flags=re.M)
    assert len(entries) == len(set(entries))
    assert {f"tracerft.{name}" for name in tracerft.__all__} <= set(entries)
    for entry in entries:
        module, _, name = entry.rpartition(".")
        assert getattr(importlib.import_module(module), name).__doc__, entry


@needs_mkdocs
def test_pages_that_nobody_listed_are_found(tmp_path, monkeypatch):
    """A new guide goes to Guides, results to Results with the name of their folder."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    hooks = importlib.import_module("site_hooks")
    for name in ("index.md", "new.md", "results/toy/README.md", "results/shift/two-styles/table.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("# Title\n")
    nav = [{"Home": "index.md"}, {"Guides": []}, {"Results": []}]
    hooks.on_config(SimpleNamespace(nav=nav, docs_dir=str(tmp_path)))
    assert nav[0] == {"Home": "index.md"}
    assert nav[1] == {"Guides": ["new.md"]}
    shift, toy = "results/shift/two-styles/table.md", "results/toy/README.md"
    assert nav[2] == {"Results": [{"Shift, two styles: table": shift}, {"Toy": toy}]}


@pytest.mark.slow
@needs_mkdocs
def test_the_site_builds_strictly_and_asks_no_other_server(tmp_path):
    """No warning; every page of the navigation; public names as anchors; scripts, styles and images are its own."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = named(yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"])
    assert all((tmp_path / name).with_suffix(".html").is_file() for name in names)
    api = (tmp_path / "api.html").read_text("utf-8")
    assert all(re.search(rf'id="tracerft\.(\w+\.)*{name}"', api) for name in tracerft.__all__)
    for page in tmp_path.rglob("*.html"):
        foreign = re.findall(
            r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=\"?(?:https?:)?//[^>]*>", page.read_text()
        )
        assert not foreign, page.name
