"""PPO by optimizer: the runs that purejaxrl's Adam makes beside the tuned ones, and the returns."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from celo2.evaluate.baselines import ppo_adam
from celo2.evaluate.comparison import Comparison, Unit
from celo2.evaluate.intervals import Mean, interquartile_mean
from celo2.evaluate.scores import Score
from celo2.evaluate.suites import RL
from celo2.evaluate.tune import tune

ADAM = "Adam of purejaxrl"
SEEDS = 8
"""Reported, as the paper does."""


def published(comparison: Comparison) -> list[Unit]:
    """Return the runs of Adam at the learning rate that purejaxrl has for each game."""
    units = []
    for problem in comparison.problems:
        baseline = ppo_adam(RL[problem.name].adam_learning_rate)
        plan = functools.partial(tune, grid=baseline.grid, seeds=comparison.reported)
        units.append(Unit(ADAM, baseline, problem, plan))
    return units


def returns(score: Score) -> list[float]:
    """Return the mean return of each seed, which is what a PPO's loss is the negative of."""
    return [-loss for loss in score.losses.values()]


def over_adam(scores: Mapping[str, Score], adam: Mapping[str, Score]) -> Mean:
    """Return the interquartile mean over games of returns relative to the mean of Adam's."""
    return interquartile_mean(
        [[each / -adam[game].mean for each in returns(score)] for game, score in scores.items()]
    )
