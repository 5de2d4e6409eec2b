"""Protects who calls the package: signatures change only on purpose, and all are documented."""

import importlib
import re
from pathlib import Path

import pytest

from celo2.cli.main import COMMANDS
from tests.public_api import FILE, MODULES, public_api

ROOT = Path(__file__).parents[1]


def test_signatures_are_those_of_the_file():
    assert public_api() == FILE.read_text(), "if it was meant: python -m tests.public_api"


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_stands_on_the_api_pages(module):
    """Under the name by which it is imported, or, of an alias, with a link to that."""
    text = "".join(path.read_text() for path in sorted((ROOT / "docs/api").glob("*.md")))
    documented = set(re.findall(r"(?m)^::: (\S+)$", text)) | set(re.findall(r"`(\S+)` is \[", text))
    names = [f"{module}.{name}" for name in importlib.import_module(module).__all__]
    missing = [name for name in names if name not in documented and not name.endswith("__")]
    assert not missing


def test_every_command_stands_on_its_page():
    text = (ROOT / "docs/api/commands.md").read_text()
    documented = re.findall(r"(?m)^::: (celo2\.cli\.\S+)$", text)
    assert documented == [f"{each.__module__}.{each.__name__}" for each in COMMANDS.values()]
    assert re.findall(r"(?m)^## celo2 (\S+)$", text) == list(COMMANDS)
