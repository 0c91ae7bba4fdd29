"""SVG text: made small, themeable and repeatable when drawn, and made harmless when put into a page.

Imports `errors` only.
"""

import re
from pathlib import Path
from xml.etree import ElementTree

from tracerft.errors import DataError

# Stands in for "the colour of the surrounding text" while matplotlib draws; `polish` swaps it for currentColor.
INK = "#010203"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
# For the file opened alone; inside a report the page's own, more specific rule wins.
_STYLE = (
    "<style>.tracerft-figure{color:#44474d}"
    "@media (prefers-color-scheme:dark){.tracerft-figure{color:#c3c7ce}}"
    "@media print{.tracerft-figure{color:#333}}</style>"
)
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_CURE = "draw the figure again with `tracerft report`"
_DRAWING = {
    *("svg", "g", "defs", "style", "title", "desc", "path", "rect", "circle", "ellipse", "line", "polyline", "polygon"),
    *("text", "tspan", "use", "clipPath", "symbol", "marker", "linearGradient", "radialGradient", "stop"),
}


def polish(svg: str) -> str:
    """Matplotlib's SVG without its prologue, dates and empty names, in the reader's font and text colour.

    Args:
        svg: what ``Figure.savefig(format="svg")`` wrote, drawn with `INK` for axes and text.

    Returns:
        One ``<svg>`` element as text, equal for equal input.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # names such as axes_1, which nothing refers to
    svg = svg.replace(INK, "currentColor")
    # Matplotlib measured its own font; the system's is a little narrower, so nothing overflows.
    svg = re.sub(r"'DejaVu Sans'(?:,[^;\"]*)?", FONT, svg)
    svg = re.sub(r"\n\s*", "\n", svg)
    return re.sub(r"<svg ([^>]*)>", rf'<svg class="tracerft-figure" \1>{_STYLE}', svg, count=1)


def inline(path: Path, prefix: str) -> str:
    """`inline_text` of an SVG file.

    Args:
        path: the file.
        prefix: put before every name in the drawing.

    Raises:
        DataError: if the file is missing, or as in `inline_text`.
    """
    try:
        svg = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; {_CURE}") from None
    return inline_text(svg, prefix, str(path))


def inline_text(svg: str | bytes, prefix: str, source: str) -> str:
    """A drawing that is safe to stand inside an HTML page.

    Args:
        svg: an SVG document; only drawing elements are allowed in it.
        prefix: put before every name in the drawing, so that two drawings cannot mix their clips and markers.
        source: what to call the drawing in an error.

    Returns:
        One ``<svg>`` element, written anew from the parsed tree.

    Raises:
        DataError: if this is not SVG, or holds scripts, foreign content or links to elsewhere.
    """
    try:
        root = ElementTree.fromstring(svg)
    except ElementTree.ParseError as error:
        raise DataError(f"{source} is not SVG ({error}); {_CURE}") from None
    for element in root.iter():
        _check(element, source)
        _prefix(element, prefix)
    # Known prefixes, because an HTML parser knows `xlink:href` and not `ns1:href`.
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    text = ElementTree.tostring(root, encoding="unicode")
    # HTML gives both names their meaning by itself; without them the page holds no address at all.
    return re.sub(rf' xmlns(?::xlink)?="(?:{_SVG}|{_XLINK})"', "", text)


def _check(element: ElementTree.Element, source: str) -> None:
    """Refuse whatever could run or load something."""
    tag = str(element.tag)
    problem = None
    if tag.removeprefix(f"{{{_SVG}}}") not in _DRAWING or not tag.startswith("{"):
        problem = f"element {tag!r}"
    for name, value in element.attrib.items():
        plain = name.rpartition("}")[2].lower()
        if plain.startswith("on") or (plain == "href" and not value.startswith("#")):
            problem = f"attribute {plain!r}"
        elif re.search(r"url\(\s*['\"]?(?!#)", value, re.IGNORECASE):
            problem = f"an address in {plain!r}"
    if tag.endswith("}style") and re.search(r"url\(|@import|</", element.text or "", re.IGNORECASE):
        problem = "an address in 'style'"
    if problem:
        raise DataError(f"{source} must be a plain drawing; got {problem}; {_CURE}")


def _prefix(element: ElementTree.Element, prefix: str) -> None:
    """Give names and references of one element a prefix."""
    for name, value in element.attrib.items():
        plain = name.rpartition("}")[2]
        if plain == "id":
            element.set(name, prefix + value)
        elif plain == "href":
            element.set(name, "#" + prefix + value[1:])
        elif "url(#" in value:
            element.set(name, value.replace("url(#", f"url(#{prefix}"))
