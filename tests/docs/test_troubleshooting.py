"""Protects who searches the documentation for a message: each has its entry."""

import re
from pathlib import Path

from tests.docs.messages import messages

PAGE = (Path(__file__).parents[2] / "docs/troubleshooting.md").read_text()
ENTRIES = re.findall(r"(?m)^`(.+)`\n:   ", PAGE)


def test_every_message_has_an_entry_and_every_entry_a_message():
    found = messages()
    assert len(found) > 50
    missing = [f"{where}: {message}" for message, where in found.items() if message not in ENTRIES]
    assert not missing, "write their cause and remedy into docs/troubleshooting.md"
    assert set(ENTRIES) == set(found), "entries of messages that are gone"


def test_a_message_is_read_from_the_source():
    """By hand: an f-string with values, a constant of another module."""
    assert "split_sizes … do not add up to …, the length of axis … of …" in messages()
    assert any(
        message.startswith("no parameter has a gradient; if Fully") for message in messages()
    )
