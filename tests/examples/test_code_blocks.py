"""Protects whoever copies code from README or docs: every Python block runs, in page order."""

import re
import textwrap
from pathlib import Path

import pytest

from tests.baselines.golden import formula_theta
from tests.baselines.test_checkpoint import write

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^( *)```python\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_CODE = [path for path in PAGES if BLOCK.search(path.read_text())]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda path: path.name)
def test_python_blocks_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if page.name == "baselines.md":
        write(tmp_path / "params", formula_theta(30, 512, 256))  # VeLO's checkpoint, not shipped
    names = {"__name__": "__main__"}
    for _, block in BLOCK.findall(page.read_text()):
        exec(compile(textwrap.dedent(block), page.name, "exec"), names)


def test_every_fence_is_text_or_python_that_runs():
    """No block escapes by another name of the language."""
    for path in PAGES:
        opened = re.findall(r"(?m)^\s*```(\S[^\n]*)$", path.read_text())
        assert set(opened) <= {"python", "bibtex"}, path
