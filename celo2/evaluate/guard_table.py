"""The tables of the guard: how often it acts, what it does to the loss, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from celo2.evaluate.records import Records, theta_key
from celo2.evaluate.suites import VALIDATION
from celo2.evaluate.tables import Table
from celo2.theta import load_theta

RECORDS = "records/guard/runs.jsonl"
"""Written by `python -m benchmarks.guard`."""
NONE = -1.0
"""A least cosine at which nothing is pushed. Being a setting, it shares the compiled program of the
others: where a guard never acts, the loss is that of NONE to the last digit."""
KAPPAS = (0.01, 0.1)
"""Least cosines."""


def guard(root: Path) -> Table:
    """Return losses without and with the guard, and the fraction of updates that it pushed."""
    names = {theta_key(load_theta(name)): name for name in ("celo2", "celo2-base")}
    found: dict[tuple[str, str], dict[float, dict[str, Any]]] = {}
    for record in Records(root / RECORDS):
        run = record["run"]
        row = run["problem"], names.get(run["theta"], "random")
        found.setdefault(row, {})[run["settings"]["guard"]] = record
    rows = []
    for (problem, name), runs in found.items():
        if runs.keys() >= {NONE, *KAPPAS}:
            cells = [_cell(runs[kappa]) for kappa in KAPPAS]
            rows.append((VALIDATION[problem].title, name, f"{runs[NONE]['loss']:.3f}", *cells))
    guards = [f"guard={kappa:g}" for kappa in KAPPAS]
    return Table(("problem", "theta", "no guard", *guards), tuple(rows))


def _cell(record: dict[str, Any]) -> str:
    """Return the loss, and the percentage of the updates of matrices that were pushed."""
    counts = record["counts"]
    pushed = counts["pushed"] / (counts["leaves"] * record["run"]["steps"])
    return f"{record['loss']:.3f} ({100 * pushed:.1f} %)"
