"""The page is self-contained, escaped, accessible and sortable."""

import base64
import hashlib
import json
import math
import re
from html.parser import HTMLParser

import pytest

from tests.reports.example import HOSTILE
from tracerft.errors import ArgumentError
from tracerft.reports.blocks import Album, Albums, Cell, Claims, Column, Figure, Picture, Repeat, Table, Text
from tracerft.reports.html import page

VOID = {"meta", "br", "img", "input", "link", "hr"}


class Reader(HTMLParser):
    """Collects tags with attributes, text outside scripts, and unbalanced tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.stack: list[str] = []
        self.wrong: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """Keep the tag and open it."""
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        """Keep the tag."""
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        """Close the innermost tag or note that it is another."""
        if not self.stack or self.stack.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        """Keep what a reader sees."""
        if self.stack[-1:] not in (["script"], ["style"]):
            self.words += data

    def all(self, name: str) -> list[dict[str, str | None]]:
        """Attributes of every tag of one name."""
        return [attributes for tag, attributes in self.tags if tag == name]


def example() -> str:
    """Each kind of section with each hostile text in each place."""
    rows = [[Cell(name, name), Cell("1.0", 1.0, best=True), Cell("–")] for name in HOSTILE]
    columns = [Column("Name", numeric=False), Column(HOSTILE[1], HOSTILE[0], "higher"), Column("Loss", better="lower")]
    claims = [{"id": name, "paper": name, "ours": name, "holds": True, "note": name} for name in HOSTILE]
    sections = [
        *(Text(name, [name]) for name in HOSTILE),
        Table(HOSTILE[0], columns, rows, HOSTILE[1]),
        Table("Folded", columns, rows, collapsed=True),
        Figure("F", "<svg></svg>", HOSTILE[1], HOSTILE[1]),
        Albums(HOSTILE[2], HOSTILE[0], [Album(name, {name: [Picture(b"<>", HOSTILE)]}) for name in HOSTILE]),
        Claims("Claims", claims),
        Repeat(HOSTILE[2], HOSTILE[0], {HOSTILE[1]: {name: [name] for name in HOSTILE}}),
    ]
    return page(HOSTILE[0], list(HOSTILE), sections, {"names": list(HOSTILE), "<": "</script><!--"})


def test_hostile_names_are_shown_and_do_nothing():
    """Every text arrives as written; no tag or attribute comes from one; tags stay balanced."""
    read = Reader(example())
    assert not read.wrong
    assert not read.stack
    for name in HOSTILE:
        assert read.words.count(name) >= 8
    assert len(read.all("script")) == 2
    pictures = [{"src": "data:image/jpeg;base64,PD4=", "alt": "; ".join(HOSTILE)}] * len(HOSTILE)
    assert read.all("img") == pictures
    assert not [a for _, attributes in read.tags for a in attributes if a.startswith("on")]


def test_the_page_refers_to_nothing_outside():
    """Every link is to the page itself; no address of the network is anywhere outside texts."""
    text = example()
    links = [v for _, a in Reader(text).tags for k, v in a.items() if k in ("src", "href", "srcset", "data", "action")]
    assert links
    assert all(str(link).startswith(("#", "data:image/jpeg;base64,")) for link in links)
    assert not re.search(r"https?://|@import|url\(", text)


def test_links_inside_the_page_have_a_target():
    """Ids are unique and every # exists."""
    read = Reader(example())
    ids = [a["id"] for _, a in read.tags if "id" in a]
    assert len(ids) == len(set(ids))
    wanted = [str(a["href"])[1:] for a in read.all("a")]
    for key in ("aria-labelledby", "aria-describedby"):
        wanted += [str(a[key]) for _, a in read.tags if key in a]
    assert set(wanted) <= set(ids)


def test_the_policy_allows_the_one_script_and_no_request():
    """The hash is that of the script's text as it stands in the page."""
    text = example()
    policy = next(a["content"] for a in Reader(text).all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    script = text.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in str(policy)
    assert str(policy).startswith("default-src 'none'")
    assert "img-src data:;" in str(policy)


def test_the_data_is_kept_for_programs():
    """What was given is read back, though it tries to end its element."""
    block = example().partition('<script type="application/json" id="data">')[2].partition("</script>")[0]
    assert json.loads(block) == {"names": list(HOSTILE), "<": "</script><!--"}
    with pytest.raises(ArgumentError, match="`data`"):
        page("t", [], [], {"x": math.nan})


def test_tables_carry_what_sorting_needs():
    """Kinds, first direction, state and values; an absent value has none."""
    read = Reader(example())
    heads = [a for a in read.all("th") if "data-sort" in a][:3]
    assert [a["data-sort"] for a in heads] == ["text", "number", "number"]
    assert [a["data-first"] for a in heads] == ["ascending", "descending", "ascending"]
    assert {a["aria-sort"] for a in heads} == {"none"}
    assert [a["scope"] for a in heads] == ["col"] * 3
    cells = read.all("td")[:2]
    assert cells[0]["data-value"] == "1.0"
    assert cells[0]["class"] == "number best"
    assert "data-value" not in cells[1]


def test_landmarks_skip_link_and_alternatives_are_there():
    """What a screen reader and a keyboard need."""
    read = Reader(example())
    roles = [a.get("role") for _, a in read.tags]
    assert all(roles.count(role) == 1 for role in ("banner", "main", "contentinfo"))
    assert read.all("a")[0] == {"class": "skip", "href": "#main"}
    assert read.all("html")[0]["lang"] == "en"
    drawing = next(a for a in read.all("div") if a.get("role") == "img")
    assert drawing["aria-label"] == HOSTILE[1]
    assert all(a["tabindex"] == "0" for a in read.all("div") if a.get("class") == "scroll")


def test_control_characters_and_lone_surrogates_do_not_stop_the_page():
    """File names on disk can hold both."""
    text = page("a\x00b\ud800c", [], [Text("t", ["x\x1by"])], {})
    assert "a b c" in text
    assert text.encode("utf-8")
