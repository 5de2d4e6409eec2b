"""A cheap score on the validation problems, for a search."""

from __future__ import annotations

from pathlib import Path

from celo2.evaluate.baselines import Baseline, Grid
from celo2.evaluate.records import Records
from celo2.evaluate.runs import RecordedLoss
from celo2.evaluate.scores import Score
from celo2.evaluate.suites import VALIDATION, problem
from celo2.evaluate.tune import tune

SCREENING_SEEDS = (0, 1, 2)
"""The tuning seed among them: screening is for a search, and no score that is reported."""


def screen(baseline: Baseline, path: Path) -> dict[str, Score]:
    """Score a theta cheaply: a short grid of learning rates, AdamW's multiplier given.

    A baseline without learning rates, as by `total_steps`, has nothing to tune.
    """
    records, scores = Records(path), {}
    for name, entry in VALIDATION.items():
        grid = baseline.grid
        if grid.learning_rates:
            grid = Grid((2e-3, 4e-3), ({"adamw_lr_multiplier": entry.adamw_lr_multiplier},))
        scores[name] = tune(RecordedLoss(records, problem(name), baseline), grid, SCREENING_SEEDS)
    return scores
