"""A hook of MkDocs: render formulas to MathML while the site is built, so they need no script."""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\(?P<open>[(\[])(?P<latex>.*?)\\[)\]]</(?P=tag)>',
    re.DOTALL,
)
BAR = re.compile(r"(?:\\[Bb]ig)?\\([lr])([vV])ert(?![a-zA-Z])")
UNREAD = re.compile(r">\s*(\\[a-zA-Z]+)")


def on_page_content(content: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace what arithmatex marked as formulas."""
    return FORMULA.sub(_mathml, content)


def _mathml(match: re.Match[str]) -> str:
    display = "block" if match["open"] == "[" else "inline"
    mathml = convert(BAR.sub(_fence, html.unescape(match["latex"])), display=display)
    unread = UNREAD.search(mathml)
    if unread:
        raise PluginError(f"latex2mathml does not read {unread[1]} in {match['latex']}")
    return f'<div class="formula">{mathml}</div>' if display == "block" else mathml


def _fence(bar: re.Match[str]) -> str:
    """Return a bar that opens or closes; the converter takes those of LaTeX for relations."""
    side = {"l": "left", "r": "right"}[bar[1]]
    return rf"\{side}\{'|' if bar[2] == 'V' else 'vert'} "
