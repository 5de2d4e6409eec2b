"""A table, as Markdown for the docs and as HTML for the page."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence

WORDS = 60
"""Characters from which on a cell is text and no number."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A header and its rows of text; the first column names the row."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Return the table in Markdown."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join([f"| {' | '.join(line)} |" for line in lines])

    def html(self) -> str:
        """Return the table in HTML, in a box that scrolls sideways where it is too wide."""
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in self.header)
        lines = []
        for first, *cells in self.rows:
            rest = "".join(map(_cell, cells))
            lines.append(f"<tr><th>{html.escape(first)}</th>{rest}</tr>")
        body = "\n".join(lines)
        return f'<div class="scroll"><table><tr>{head}</tr>\n{body}</table></div>'


def _cell(text: str) -> str:
    """Return a cell; one of many words may be broken into lines."""
    opening = '<td class="text">' if len(text) > WORDS else "<td>"
    return f"{opening}{html.escape(text)}</td>"
