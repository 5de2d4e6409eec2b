"""The table of `total_steps=`: one configuration against optimizers tuned on each problem."""

from __future__ import annotations

import statistics
from pathlib import Path

from celo2.evaluate.baselines import ADAMW, MUON, celo2_total_steps
from celo2.evaluate.records import Records
from celo2.evaluate.scores import Score, ratio, recorded_score
from celo2.evaluate.suites import VALIDATION
from celo2.evaluate.tables import Table
from celo2.theta import load_theta

RECORDS = "records/validation/runs.jsonl"
LENGTHS = (1, 10)
"""Factors of the problems' steps for which tuned optimizers are recorded."""


def total_steps(root: Path) -> Table:
    """Return held-out losses of the shipped policy over those of tuned Muon and AdamW.

    A row is a problem at a length; it has the seeds that all have been run on.
    """
    records = Records(root / RECORDS)
    tuning_free = celo2_total_steps(load_theta("celo2"))
    rows: list[tuple[str, ...]] = []
    for longer in LENGTHS:
        found: list[tuple[float, float]] = []
        for name, entry in VALIDATION.items():
            steps = longer * entry.steps
            ours = recorded_score(records, name, steps, tuning_free)
            if ours is None:
                continue
            ratios = []
            for baseline in (MUON, ADAMW):
                ratios.append(_ratio(ours, recorded_score(records, name, steps, baseline)))
            seeds = ", ".join(map(str, ours.losses))
            shown = ["not recorded" if each is None else f"{each:.3f}" for each in ratios]
            rows.append((entry.title, f"{steps:,}", seeds, *shown))
            if None not in ratios:
                found.append((ratios[0], ratios[1]))  # type: ignore[arg-type]
        if found:
            means = [f"{statistics.fmean(column):.3f}" for column in zip(*found, strict=True)]
            rows.append((f"mean of {len(found)}", "", "", *means))
    return Table(("", "steps", "seeds", "over tuned Muon", "over tuned AdamW"), tuple(rows))


def _ratio(ours: Score, tuned: Score | None) -> float | None:
    """Return the ratio of losses over the seeds that both have, None if there are none."""
    if tuned is None or not ours.losses.keys() & tuned.losses.keys():
        return None
    return ratio(ours, tuned)
