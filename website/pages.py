"""A hook of MkDocs: pages and pictures of the site that live elsewhere in the repository.

Pages link to each other as files of the repository, so that links work in a checkout too; this
hook turns each link into that of the site's page. It puts the source of a function or a class in
the place of a comment `<!-- source:FILE:NAME -->`, and the benchmark's report in that of
`<!-- report -->`.
"""

from __future__ import annotations

import ast
import posixpath
import re
import textwrap
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from celo2.evaluate.evidence import evidence
from celo2.evaluate.page import PARTS_CSS, introduction, sections

ROOT = Path(__file__).parents[1]
PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "README.md": "index.md",
    "celo2/weights/README.md": "weights.md",
    "celo2/torch/README.md": "torch-step.md",
    "NOTICE": "notice.md",
    "CITATION.cff": "citation.md",
}
"""File of the repository -> page of the site."""
SOURCE = re.compile(r"<!-- source:(?P<file>\S+):(?P<name>\w+) -->")
REPORT = "<!-- report -->"
NUMBER = re.compile(r"<td>(?=[-\d][^<]{0,24}</td>)")
LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and pictures from outside docs/."""
    for source, target in PAGES.items():
        text = (ROOT / source).read_text()
        text = text if source.endswith(".md") else f"# {source}\n\n```\n{text}```\n"
        files.append(File.generated(config, target, content=text))
    for path in sorted((ROOT / "examples").glob("*.py")):
        files.append(File.generated(config, f"examples/{path.stem}.md", content=_example(path)))
    for path in sorted((ROOT / "records").rglob("*.png")):
        uri = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to files of the repository at the site's pages."""
    source = source_of(page.file.src_uri)

    def relinked(match: re.Match[str]) -> str:
        opening, link, rest = match.groups()
        if ":" in link:
            return match[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
        uri = site_page(target)
        return opening + posixpath.relpath(uri, posixpath.dirname(page.file.src_uri) or ".") + rest

    markdown = SOURCE.sub(_source, LINK.sub(relinked, markdown))
    if REPORT not in markdown:
        return markdown
    page.meta["search"] = {"exclude": True}  # the text of its pictures is numbers
    return markdown.replace(REPORT, report())


def on_page_content(content: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Mark the cells of tables that hold a number, which style.css keeps on one line."""
    return NUMBER.sub('<td class="number">', content)


def report() -> str:
    """Return the benchmark's report as the Markdown of a page."""
    found = evidence(ROOT)
    parts = [f"<style>{PARTS_CSS}</style>", introduction(found)]
    for section in sections(found):
        parts += [f"## {section.heading}", section.content]
    return "\n\n".join(parts)


def source_of(uri: str) -> str:
    """Return the file of the repository that a page of the site is made from."""
    for source, target in PAGES.items():
        if target == uri:
            return source
    if uri.startswith("examples/"):
        return uri.removesuffix(".md") + ".py"
    return f"docs/{uri}"


def site_page(path: str) -> str:
    """Return the page of the site for a file of the repository."""
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path.startswith("examples/") and path.endswith(".py"):
        return path.removesuffix(".py") + ".md"
    return path


def _example(path: Path) -> str:
    """Return the page of an example: its docstring, then its source."""
    text = path.read_text()
    summary = ast.get_docstring(ast.parse(text)) or ""
    title = path.relative_to(ROOT).as_posix()
    return f"# `{title}`\n\n{summary}\n\n```python\n{text}```\n"


def _source(match: re.Match[str]) -> str:
    """Return the source of a function or a class as a block of code."""
    text = (ROOT / match["file"]).read_text()
    for node in ast.walk(ast.parse(text)):
        if getattr(node, "name", None) == match["name"]:
            code = textwrap.dedent(ast.get_source_segment(text, node, padded=True) or "")
            return f"```python\n{code}\n```"
    raise PluginError(f"{match['file']} defines no {match['name']}")
