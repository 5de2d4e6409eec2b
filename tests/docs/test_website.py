"""Protects readers of the site: the check of its links finds what is broken."""

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


def test_links_between_files_of_the_repository_become_links_between_pages():
    assert site_page("docs/costs.md") == "costs.md"
    assert site_page("examples/fsdp2_gpt.py") == "examples/fsdp2_gpt.md"
    assert site_page("README.md") == "index.md"
    assert source_of("examples/fsdp2_gpt.md") == "examples/fsdp2_gpt.py"
    assert source_of("contributing.md") == "CONTRIBUTING.md"
    assert LINK.findall("[a](b.md#c) `x[0](y)`")[0] == ("](", "b.md", "#c)")
