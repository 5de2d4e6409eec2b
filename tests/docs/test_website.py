"""Protects readers of the site: links lead somewhere, formulas and the report can be read."""

import pytest
from mkdocs.exceptions import PluginError

from website import pages
from website.formulas import on_page_content
from website.links import broken
from website.pages import LINK, site_page, source_of


def test_broken_links_are_found(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "index.html").write_text(
        '<h2 id="there">x</h2><a href="folder/other.html#here">ok</a><a href="#there">ok</a>'
        '<a href="https://elsewhere.example">ok</a><a href="gone.html">no</a>'
        '<a href="folder/other.html#missing">no</a><img src="gone.png">'
        '<script src="https://cdn.example/x.js"></script>'
    )
    (tmp_path / "folder/other.html").write_text('<p id="here"><a href="../index.html">ok</a>')
    assert broken(tmp_path) == [
        "index.html: gone.html does not exist",
        "index.html: folder/other.html#missing has no such anchor",
        "index.html: gone.png does not exist",
        "index.html: https://cdn.example/x.js is loaded from elsewhere",
    ]


def test_formulas_need_no_script():
    marked = '<p>a <span class="arithmatex">\\(a \\le b\\)</span></p>'
    page = on_page_content(marked, page=None, config=None, files=None)
    assert page.startswith("<p>a <math")
    assert "<mi>a</mi><mo>&#x02264;</mo><mi>b</mi>" in page


def test_a_bar_of_a_norm_opens_or_closes():
    marked = '<div class="arithmatex">\\[\\Big\\lvert x \\Big\\rvert^2\\]</div>'
    page = on_page_content(marked, page=None, config=None, files=None)
    assert 'form="prefix">&#x0007C;</mo><mi>x</mi><mo' in page
    assert "vert" not in page


def test_a_formula_that_is_not_understood_fails_the_build():
    marked = '<span class="arithmatex">\\(\\nosuchsign x\\)</span>'
    with pytest.raises(PluginError, match=r"does not read \\nosuchsign"):
        on_page_content(marked, page=None, config=None, files=None)


def test_a_cell_with_a_number_stays_on_one_line():
    cells = "<td>0.778 (0.755 to 0.799)</td><td>-1</td><td>2 words, and then a sentence</td>"
    marked = pages.on_page_content(cells, page=None, config=None, files=None)
    assert marked.count('<td class="number">') == 2
    assert "<td>2 words" in marked


def test_the_report_is_a_page_with_a_heading_per_section():
    text = pages.report()
    assert text.index("\n\n## Where Celo2 loses\n\n") < text.index("\n\n## Tuned\n\n")
    assert "<svg" in text
    assert "<h1" not in text


def test_links_between_files_of_the_repository_become_links_between_pages():
    assert site_page("docs/costs.md") == "costs.md"
    assert site_page("examples/fsdp2_gpt.py") == "examples/fsdp2_gpt.md"
    assert site_page("README.md") == "index.md"
    assert source_of("examples/fsdp2_gpt.md") == "examples/fsdp2_gpt.py"
    assert source_of("contributing.md") == "CONTRIBUTING.md"
    assert LINK.findall("[a](b.md#c) `x[0](y)`")[0] == ("](", "b.md", "#c)")
