"""Protects whoever decides by README: its sentences say what its table and the records say."""

import math
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def ratios(table, page):
    """{optimizer: ratios to tuned Muon by problem, the mean last}.

    Another test holds the table to the records.
    """
    marked = re.search(rf"<!-- table:{table} -->\n(.*?)\n<!-- /table -->", page, re.DOTALL)
    rows = [line.strip("| ").split(" | ") for line in marked[1].splitlines()[2:]]
    return {name: [float(cell) for cell in cells] for name, *cells in rows}


def test_the_margins_over_adamw_and_muon_are_those_of_the_tables():
    short = ratios("validation", README)
    long = ratios("validation-long", (ROOT / "docs/choosing.md").read_text())
    below = []
    for ours, adamw in zip(short["Celo2"][:-1], short["AdamW"][:-1], strict=True):
        below.append(100 * (1 - ours / adamw))
    assert f"{min(below):.0f} to {max(below):.0f} % below that of tuned AdamW" in README
    gain, long_gain = 100 * (1 - short["Celo2"][-1]), 100 * (1 - long["Celo2"][-1])
    sentence = f"{gain:.1f} % in runs of 400 steps and {long_gain:.1f} % in runs of 4,000"
    assert sentence in README
    behind = sum(ratio > 1 for ratio in short["Celo2"][:-1])
    words = {1: "one", 2: "two", 3: "three"}
    assert f"on {words[behind]} of the five problems Muon is ahead" in README


def test_the_cost_is_the_range_of_the_table():
    row = re.compile(r"^\| [^,|]+, b?float(?:32|16) \|(.*)\|$", re.MULTILINE)
    cells = []
    for found in row.findall((ROOT / "docs/costs.md").read_text()):
        cells.append([float(cell) for cell in found.split("|")])
    assert len(cells) == 8, "four models in two dtypes"
    muon, adamw = [row[0] for row in cells], [row[3] for row in cells]
    choosing = (ROOT / "docs/choosing.md").read_text()
    assert f"{min(adamw):.0f} to {max(adamw):.0f} times AdamW's" in README
    assert f"[{min(adamw):.0f} to {max(adamw):.0f} times as much]" in choosing
    for page in (README, choosing):
        assert f"{min(muon):.2f} to {max(muon):.2f} times that of a Muon in float32" in page


def test_the_benchmark_is_told_as_its_table_counts():
    marked = re.search(r"<!-- table:benchmark-tuned -->\n(.*?)<!-- /table -->", README, re.DOTALL)
    rows = [line.strip("| ").split(" | ") for line in marked[1].splitlines()[2:]]
    counts = {row[0]: row[-2:] for row in rows}
    lost, won, _ = map(int, counts["Celo2"][1].split(","))
    assert ("wins more problems against Muon than it loses" in README) == (won > lost)
    lost, won, undecided = map(int, counts["Celo2, nothing tuned"][0].split(","))
    assert ("beats tuned AdamW on most problems" in README) == (won > lost + undecided)
    lost, won, undecided = map(int, counts["Celo2, nothing tuned"][1].split(","))
    balanced = abs(lost - won) <= undecided
    assert ("about as often behind tuned Muon" in README) == balanced


def test_what_one_problem_makes_of_the_mean_is_told():
    """Without Burgers' equation tuned Celo2 and Muon are level, within 1 %."""
    page = (ROOT / "docs/benchmark.md").read_text().partition("table:benchmark-tuned-losses")[2]
    lines = page.partition("<!-- /table -->")[0].splitlines()
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if line[:1] == "|"
    ]
    header, _, *rows = cells
    logs = {}
    for row in rows:
        ours, theirs = (float(row[header.index(name)].split()[0]) for name in ("Celo2", "Muon"))
        logs[row[0]] = math.log(ours / theirs)
    best = min(logs, key=logs.__getitem__)
    rest = [value for title, value in logs.items() if title != best]
    level = abs(sum(rest) / len(rest)) < 0.01 < -sum(logs.values()) / len(logs)
    sentence = f"comes from {best}: without it the two are level"
    assert (sentence in page.replace("\n", " ")) == level
    told = rf"without \[{best}\]\([^)]*\) the mean losses are level"
    assert bool(re.search(told, README)) == level


def test_the_speed_up_without_tuning_is_that_of_the_benchmark():
    page = (ROOT / "docs/benchmark.md").read_text().partition("table:benchmark-single")[2]
    row = re.search(r"^\| Celo2, nothing tuned \| \d+ \| [^|]+ \| ([\d.]+) \(", page, re.MULTILINE)
    assert f"1/{float(row[1]):.1f} of the steps" in README


def test_it_stays_a_screen_and_a_half():
    prose = re.sub(r"(?s:```.*?```|<!--.*?-->)|(?m:^\|.*$)", "", README)
    assert 500 < len(prose.split()) < 750


def test_the_games_are_counted_as_in_their_table():
    page = (ROOT / "docs/agents.md").read_text()
    marked = re.search(r"<!-- table:rl-returns -->\n(.*?)<!-- /table -->", page, re.DOTALL)
    rows = [line.strip("| ").split(" | ") for line in marked[1].splitlines()[2:]]
    returns = {name: [float(cell.split()[0]) for cell in cells[:-1]] for name, *cells in rows}
    ours, adam = returns["Celo2, nothing tuned"], returns["Adam, as purejaxrl"]
    behind = sum(a < b for a, b in zip(ours, adam, strict=True))
    words = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}
    assert f"[{words[behind]} of {words[len(adam)]} games]" in README
