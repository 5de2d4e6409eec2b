"""Scores of tuned optimizers, from new runs or records, and ratios to the better baseline."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from celo2.evaluate.baselines import Baseline, Settings
from celo2.evaluate.records import Records, key
from celo2.evaluate.suites import REPORTED_SEEDS, TUNING_SEED

BASELINES = ("AdamW", "Muon")
"""What ratios are to: on each problem the better of these, by the name that tables show."""


@dataclasses.dataclass(frozen=True)
class Score:
    """An optimizer on a problem, at its best settings."""

    settings: Settings
    losses: Mapping[int, float]
    """Held-out loss at the end, by seed; infinite for a run that diverged."""

    @property
    def mean(self) -> float:
        """Over seeds."""
        return statistics.fmean(self.losses.values())

    @property
    def deviation(self) -> float:
        """Sample standard deviation over seeds; NaN for one seed."""
        values = list(self.losses.values())
        if len(values) < 2:
            return math.nan
        return statistics.stdev(values) if all(map(math.isfinite, values)) else math.inf


def ratio(score: Score, baseline: Score) -> float:
    """Return the mean loss over the baseline's, both over the seeds that they share."""
    seeds = score.losses.keys() & baseline.losses.keys()
    total = sum(score.losses[seed] for seed in seeds)
    return total / sum(baseline.losses[seed] for seed in seeds)


def relative(scores: Mapping[str, Mapping[str, Score]]) -> dict[str, dict[str, float]]:
    """Return candidate -> problem -> ratio to the better baseline; `scores` likewise."""
    ratios: dict[str, dict[str, float]] = {}
    for candidate, mine in scores.items():
        ratios[candidate] = {}
        for problem, score in mine.items():
            better = min((scores[name][problem] for name in BASELINES), key=lambda s: s.mean)
            ratios[candidate][problem] = ratio(score, better)
    return ratios


def run_of(
    problem: str, steps: int, baseline: Baseline, settings: Settings, seed: int
) -> dict[str, Any]:
    """Return the run as records have it."""
    fixed = {"problem": problem, "steps": steps, **baseline.identity}
    return {**fixed, "settings": dict(settings), "seed": seed}


def loss_of(record: Mapping[str, Any]) -> float:
    """Return the held-out loss of a record; null stands for a run that diverged."""
    return math.inf if record["loss"] is None else record["loss"]


def recorded_score(
    records: Records,
    problem: str,
    steps: int,
    baseline: Baseline,
    seeds: Iterable[int] = REPORTED_SEEDS,
) -> Score | None:
    """Return the score at the settings that were best on the tuning seed.

    Where there is nothing to tune, it is at the only settings. It is over those of `seeds` that
    are recorded; None if there are none.
    """
    fixed = {"problem": problem, "steps": steps, **baseline.identity}
    tuning: list[tuple[float, Settings]] = []
    losses: dict[tuple[str, int], float] = {}
    for record in records:
        run = record["run"]
        if fixed.items() <= run.items():
            losses[key(run["settings"]), run["seed"]] = loss_of(record)
            if run["seed"] == TUNING_SEED:
                tuning.append((loss_of(record), run["settings"]))
    if not baseline.grid.learning_rates:
        settings = baseline.grid.others[0]
    elif tuning:
        _, settings = min(tuning, key=lambda pair: pair[0])
    else:
        return None
    found = {seed: losses[key(settings), seed] for seed in seeds if (key(settings), seed) in losses}
    return Score(settings, found) if found else None
