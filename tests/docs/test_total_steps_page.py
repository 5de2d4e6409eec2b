"""Protects whoever gives up tuning: the page says where that loses as its table does."""

import re
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs/total-steps.md").read_text()


def row(problem, steps):
    """Return the ratios to tuned Muon and to tuned AdamW."""
    cells = re.search(rf"^\| {problem} \| {steps} \| [^|]+ \| ([\d.]+) \| ([\d.]+) \|", PAGE, re.M)
    return float(cells[1]), float(cells[2])


def test_where_it_fails_is_what_the_table_shows():
    (short, _), (long, adamw) = row("byte LSTM", "400"), row("byte LSTM", "4,000")
    assert f"is {100 * (long - 1):.0f} % behind tuned Muon" in PAGE
    assert f"it is {100 * (short - 1):.1f} % behind Muon" in PAGE
    assert ("and not ahead of tuned AdamW" in PAGE) == (adamw >= 1)
