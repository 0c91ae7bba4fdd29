"""One self-contained HTML page: opens from disk, loads nothing, runs one known script.

Imports the sibling `blocks`; style and script are the package files report.css and report.js.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from tracerft.errors import ArgumentError
from tracerft.reports.blocks import Claims, Section, badge, escape, render

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>
{css}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the results</a>
<header role="banner">
<h1>{title}</h1>
{headline}
</header>
<nav aria-label="Sections"><ul>{contents}</ul></nav>
<main id="main" role="main">
{sections}</main>
<footer role="contentinfo">Written by tracerft from the files beside this page. Press a column head to sort.</footer>
<script type="application/json" id="data">{data}</script>
<script>{js}</script>
</body>
</html>
"""


def page(title: str, headline: Sequence[str], sections: Sequence[Section], data: Mapping[str, Any]) -> str:
    """The whole report as one HTML text.

    Args:
        title: heading and name of the window.
        headline: sentences that say what was compared, on what, and what came out; the first is set larger.
        sections: in reading order; the verdicts of a `Claims` section are repeated under the headline.
        data: plain data kept in the page, under the id ``data``, for programs.

    Returns:
        HTML that needs no network and allows none.

    Raises:
        ArgumentError: if ``data`` is not plain data with finite numbers.
    """
    js = _asset("report.js")
    anchors = [(f"section-{index}", section) for index, section in enumerate(sections, start=1)]
    contents = "".join(f'<li><a href="#{anchor}">{escape(section.title)}</a></li>' for anchor, section in anchors)
    return _PAGE.format(
        policy=_policy(js),
        title=escape(title),
        css=_asset("report.css"),
        headline=_headline(headline, anchors),
        contents=contents,
        sections="".join(render(section, anchor) for anchor, section in anchors),
        data=_json(data),
        js=js,
    )


def _headline(sentences: Sequence[str], anchors: Sequence[tuple[str, Section]]) -> str:
    lines = [f'<p class="{"lead" if i == 0 else "follow"}">{escape(text)}</p>' for i, text in enumerate(sentences)]
    for anchor, section in anchors:
        if isinstance(section, Claims) and section.claims:
            chips = "".join(
                f'<li>{badge(c.get("holds"))}<a href="#{anchor}"><bdi>{escape(c.get("id"))}</bdi></a></li>'
                for c in section.claims
            )
            lines.append(f'<ul class="chips" aria-label="Claims of the paper">{chips}</ul>')
    return "\n".join(lines)


def _policy(js: str) -> str:
    """Forbid every request; allow the page's own style and pictures, and the one script by its hash."""
    digest = base64.b64encode(hashlib.sha256(js.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _json(data: Mapping[str, Any]) -> str:
    """JSON that cannot end the element it stands in."""
    try:
        text = json.dumps(data, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"`data` must be plain data with finite numbers; got {error}; write None instead") from None
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _asset(name: str) -> str:
    return resources.files("tracerft.reports").joinpath(name).read_text(encoding="utf-8")
