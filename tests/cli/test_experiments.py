"""Protects the table of experiments."""

import io

from rich.console import Console

from celo2.cli.experiments import table
from celo2.evaluate.experiments import Experiment
from celo2.evaluate.scores import Score
from celo2.evaluate.suites import VALIDATION

MUON = {name: Score({}, {0: 1.0, 1: 2.0, 2: 3.0}) for name in VALIDATION}


def test_the_table_fits_a_narrow_terminal_best_first():
    muon = {name: [1.0, 2.0, 3.0] for name in VALIDATION}
    worse = {name: [1.25, 2.5, 3.75] for name in VALIDATION}
    few = {**muon, "byte-lstm": [0.5]}
    partial = {"byte-lstm": [0.5]}
    found = {"worse": worse, "partial": partial, "as-muon": muon, "few-seeds": few}
    experiments = {}
    for name, losses in found.items():
        result = {"minutes": 2.5, "losses": losses}
        experiments[name] = Experiment(name, f"why {name}", None, result)
    console = Console(width=80, file=io.StringIO())
    console.print(table(experiments, MUON))
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    scores = [line for line in lines if line[:1] and line[0] in found and "why" not in line]
    assert [line[0] for line in scores] == ["few-seeds", "as-muon", "worse", "partial"]
    assert scores[0][-4:] == ["0.500", "(1)", "0.9000", "2.5"]
    assert scores[2][1:] == ["1.250"] * 5 + ["1.2500", "2.5"]
    assert ["worse", "why", "worse"] in lines
