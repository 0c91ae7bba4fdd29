"""What MkDocs does not do by itself for docs/: pages from files elsewhere, and results that nobody has to list."""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from percent import page as tutorial_page

ROOT_PAGES = ("SECURITY.md", "CHANGELOG.md")
GENERATED = ("tutorial.md", *ROOT_PAGES)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add what the navigation does not name: pages below results/ to Results, others to Guides."""
    nav: list[dict[str, Any]] = config.nav  # type: ignore[assignment]
    docs = Path(config.docs_dir)
    sections = {title: entry for item in nav for title, entry in item.items()}
    named = set(_files(nav))
    for path in sorted(docs.rglob("*.md")):
        name = path.relative_to(docs)
        if name.as_posix() in named:
            continue
        if name.parts[0] == "results":
            sections["Results"].append({_title(name): name.as_posix()})
        else:
            sections["Guides"].append(name.as_posix())
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    docs = Path(config.docs_dir)
    texts = {"tutorial.md": tutorial_page((docs / "tutorial.py").read_text("utf-8"))}
    texts |= {name: (docs.parent / name).read_text("utf-8") for name in ROOT_PAGES}
    for name, text in texts.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Lead links that are right in the repository to the site's own pages, and a table to its report."""
    for name in ROOT_PAGES:
        markdown = markdown.replace(f"](../{name}", f"]({name}")
    if page.file.src_uri == "index.md":
        markdown = markdown.replace("](tutorial.ipynb)", "](tutorial.md)")
    report = Path(page.file.src_uri).with_name("report.html").as_posix()
    if page.file.src_uri.startswith("results/") and files.get_file_from_path(report):
        markdown += "\n\n[The report, with figures](report.html)\n"
    if page.file.name == "table":
        page.meta["hide"] = ["toc"]  # there are no headings, and a wide table takes the room
    return markdown


def _files(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [file for entry in (nav.values() if isinstance(nav, dict) else nav) for file in _files(entry)]


def _title(name: Path) -> str:
    """`results/compare/toy/table.md` is "Compare, toy: table", a README its folder alone."""
    folder = ", ".join(name.parts[1:-1]).replace("-", " ")
    return re.sub("^.", lambda first: first[0].upper(), folder) + ("" if name.stem == "README" else f": {name.stem}")
