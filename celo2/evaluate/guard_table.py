"""The table of the guard: how often it acts on real problems, and what it does to the loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from celo2.evaluate.records import Records, theta_key
from celo2.evaluate.suites import VALIDATION
from celo2.evaluate.tables import Table
from celo2.theta import load_theta

RECORDS = "records/guard/runs.jsonl"
"""Written by `python -m benchmarks.guard`."""


def guard(root: Path) -> Table:
    """Return losses without and with the guard, and the fraction of updates that it pushed."""
    names = {theta_key(load_theta(name)): name for name in ("celo2", "celo2-base")}
    found: dict[tuple[str, str], dict[float | None, dict[str, Any]]] = {}
    for record in Records(root / RECORDS):
        run = record["run"]
        row = run["problem"], names.get(run["theta"], "random")
        found.setdefault(row, {})[run["settings"].get("guard")] = record
    kappas = sorted({kappa for runs in found.values() for kappa in runs if kappa is not None})
    rows = []
    for (problem, name), runs in found.items():
        cells = [_cell(runs[kappa]) for kappa in kappas]
        rows.append((VALIDATION[problem].title, name, f"{runs[None]['loss']:.3f}", *cells))
    guards = [f"guard={kappa:g}" for kappa in kappas]
    return Table(("problem", "theta", "no guard", *guards), tuple(rows))


def _cell(record: dict[str, Any]) -> str:
    """Return the loss, and the percentage of the updates of matrices that were pushed."""
    counts = record["counts"]
    pushed = counts["pushed"] / (counts["leaves"] * record["run"]["steps"])
    return f"{record['loss']:.3f} ({100 * pushed:.1f} %)"
