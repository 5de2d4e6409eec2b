"""Protects whoever comes from AdamW or Muon: the page's advice is what its table says."""

import re
from collections import Counter
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs/learning-rate.md").read_text()


def test_the_advice_on_learning_rates_is_that_of_the_table():
    marked = re.search(r"<!-- table:tuned-learning-rates -->\n(.*?)\n<!-- /table -->", PAGE, re.S)
    rows = [line.strip("| ").split(" | ")[2:] for line in marked[1].splitlines()[2:]]
    rates = [[float(cell.split(",")[0]) for cell in row] for row in rows]
    factors = [adamw / celo2 for celo2, _, adamw in rates]
    (usual, _), *_ = Counter(factors).most_common(1)
    said = f"AdamW's best is {min(factors):.0f} to {max(factors):.0f} times Celo2's, and most often"
    assert f"{said} {usual:.0f} times" in PAGE
    agree = all(celo2 == muon for celo2, muon, _ in rates)
    assert ("the best ones agree on every problem" in PAGE) == agree
