"""Check the built site: each link and picture leads to a file and an anchor of it.

python -m website.links [folder]
"""

from __future__ import annotations

import posixpath
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ATTRIBUTES = {"a": "href", "link": "href", "img": "src", "script": "src", "iframe": "src"}


class _Page(HTMLParser):
    """Collects the links and the anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[tuple[str, str]] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record a tag's link and its anchor."""
        values = {name: value or "" for name, value in attrs}
        self.anchors.add(values.get("id", ""))
        link = values.get(ATTRIBUTES.get(tag, ""))
        if link is not None:
            self.links.append((tag, link))


def broken(site: Path) -> list[str]:
    """Return a sentence for each link of the site that leads nowhere or loads from elsewhere."""
    pages = {}
    for path in sorted(site.rglob("*.html")):
        pages[path.relative_to(site).as_posix()] = _Page(path.read_text())
    found = []
    for name, page in pages.items():
        if name == "404.html":
            continue  # its links begin at the root of the server
        for tag, link in page.links:
            fault = _fault(site, pages, name, tag, link)
            if fault:
                found.append(f"{name}: {link} {fault}")
    return found


def _fault(site: Path, pages: dict[str, _Page], name: str, tag: str, link: str) -> str:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return "" if tag == "a" or link.startswith("data:") else "is loaded from elsewhere"
    target = posixpath.normpath(posixpath.join(posixpath.dirname(name), unquote(parts.path)))
    if not parts.path:
        target = name
    if not (site / target).is_file():
        return "does not exist"
    if parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
        return "has no such anchor"
    return ""


def main(site: Path) -> None:
    """Print what is broken, and exit with 1 if anything is."""
    found = broken(site)
    for line in found:
        print(line)
    count = len(list(site.rglob("*.html")))
    if not count:
        sys.exit(f"{site} holds no pages; run make docs")
    print(f"{count} pages, {len(found)} broken links")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "site"))
