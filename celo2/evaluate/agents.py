"""Agents that PPO trains: the runs of purejaxrl's Adam beside the tuned ones, and the returns."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from celo2.evaluate.baselines import OPTIMIZERS, ppo_adam
from celo2.evaluate.comparison import Comparison, Unit
from celo2.evaluate.intervals import Mean, interquartile_mean
from celo2.evaluate.records import Records
from celo2.evaluate.scores import Score, recorded_score
from celo2.evaluate.suites import RL
from celo2.evaluate.tables import Table
from celo2.evaluate.tune import tune

ADAM = "Adam, as purejaxrl"
SEEDS = range(1, 9)
"""Reported; the settings are chosen on seed 0."""
Scores = Mapping[str, Mapping[str, Score]]
"""Optimizer -> game -> score, whose losses are the negatives of returns."""


def published(comparison: Comparison) -> list[Unit]:
    """Return the runs of Adam at the learning rate that purejaxrl has for each game."""
    units = []
    for problem in comparison.problems:
        baseline = ppo_adam(RL[problem.name].adam_learning_rate)
        plan = functools.partial(tune, grid=baseline.grid, seeds=comparison.reported)
        units.append(Unit(ADAM, baseline, problem, plan))
    return units


def recorded(root: Path) -> Scores:
    """Return the scores that the records of a checkout hold, of games at their base length."""
    records, found = Records(root / "records/rl/runs.jsonl"), {}
    baselines = {each.title: each.make() for each in OPTIMIZERS.values()}
    for title in (ADAM, *baselines):
        mine = {}
        for game, entry in RL.items():
            baseline = baselines.get(title) or ppo_adam(entry.adam_learning_rate)
            score = recorded_score(records, game, entry.steps, baseline, SEEDS)
            if score is not None:
                mine[game] = score
        if mine:
            found[title] = mine
    return found


def table(scores: Scores) -> Table:
    """Return the interquartile mean of the returns by game, and of their ratios to Adam's."""
    played = set().union(*scores.values())
    games = [name for name in RL if name in played]
    rows = []
    for title, mine in scores.items():
        cells = [_cell(mine[game]) if game in mine else "" for game in games]
        rows.append((title, *cells, _over_adam(mine, scores.get(ADAM, {}))))
    return Table(("", *(RL[game].title for game in games), "over Adam's"), rows)


def recorded_table(root: Path) -> Table:
    """Return the table of a checkout's records."""
    scores = recorded(root)
    if not scores:
        return Table(("no run is recorded yet: `celo2 rl --out records/rl`",), ())
    return table(scores)


def returns(score: Score) -> list[float]:
    """Return the mean return of each seed."""
    return [-loss for loss in score.losses.values()]


def over_adam(mine: Mapping[str, Score], adam: Mapping[str, Score]) -> Mean:
    """Return the interquartile mean over games of returns relative to the mean of Adam's."""
    relative = []
    for game, score in mine.items():
        relative.append(np.divide(returns(score), -adam[game].mean))
    return interquartile_mean(relative)


def _over_adam(mine: Mapping[str, Score], adam: Mapping[str, Score]) -> str:
    common = {game: score for game, score in mine.items() if game in adam}
    return _shown(over_adam(common, adam), 2) if common else ""


def _cell(score: Score) -> str:
    shown = _shown(interquartile_mean([returns(score)]), 1)
    missing = len(SEEDS) - len(score.losses)
    return f"{shown}, {len(score.losses)} of {len(SEEDS)} seeds" if missing else shown


def _shown(mean: Mean, digits: int) -> str:
    if math.isnan(mean.low):
        return f"{mean.value:.{digits}f}"
    return f"{mean.value:.{digits}f} ({mean.low:.{digits}f} to {mean.high:.{digits}f})"
