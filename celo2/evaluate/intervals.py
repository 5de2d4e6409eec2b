"""Means with bootstrap intervals: of ratios, and of returns; and the steps to a target loss."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import bootstrap, trim_mean

from celo2.evaluate.scores import Score

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over problems and seeds, with its interval; NaN where one seed gives none."""

    value: float
    low: float = math.nan
    high: float = math.nan


def paired_ratios(score: Score, baseline: Score) -> list[float]:
    """Return the losses over the baseline's, seed by seed of those that they share."""
    seeds = sorted(score.losses.keys() & baseline.losses.keys())
    return [score.losses[seed] / baseline.losses[seed] for seed in seeds]


def geometric_mean(ratios: Mapping[str, Sequence[float]]) -> Mean:
    """Return the geometric mean over problems and their seeds, each problem with equal weight.

    Args:
        ratios: problem -> ratio by seed, all above 0; infinite for a run that diverged.
    """
    logs = [np.log(np.asarray(each, float)) for each in ratios.values()]

    def mean(*samples: Any, axis: int = -1) -> Any:
        return np.mean([sample.mean(axis) for sample in samples], axis=0)

    found = _stratified(logs, mean)
    return Mean(*(float(np.exp(each)) for each in (found.value, found.low, found.high)))


def interquartile_mean(returns: Sequence[Sequence[float]]) -> Mean:
    """Return the mean of the middle half of the runs, all problems together.

    It is what Agarwal et al. 2021 recommend for a few runs of reinforcement learning: as robust
    as a median nearly, and less noisy.

    Args:
        returns: by problem and seed; of several problems, on one scale.
    """

    def mean(*samples: Any, axis: int = -1) -> Any:
        return trim_mean(np.concatenate(samples, axis), 0.25, axis)

    return _stratified([np.asarray(each, float) for each in returns], mean)


def _stratified(samples: Sequence[np.ndarray], mean: Callable[..., Any]) -> Mean:
    """Return a mean with the interval of a stratified bootstrap.

    The seeds of each problem are drawn again, the problems are not, so it says how well these
    problems are known, and nothing of others.
    """
    value = float(mean(*samples))
    if not math.isfinite(value) or min(map(len, samples)) < 2:
        return Mean(value)
    interval = bootstrap(
        samples,
        mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Mean(value, float(interval.low), float(interval.high))


def steps_to(losses: Mapping[int, float], target: float) -> tuple[float, bool]:
    """Return the steps of the shortest run that would reach a loss, and whether that is a bound.

    Args:
        losses: number of steps of a run -> its loss at the end, each run with a schedule of its
            own length.
        target: the loss to reach.

    Returns:
        Steps, interpolated in log(steps) between the last run that misses the target and the
        first that reaches it. Where all reach it, the shortest length, and where none does, the
        longest: bounds, so True.
    """
    lengths = sorted(losses)
    reached = [steps for steps in lengths if losses[steps] <= target]
    if not reached:
        return float(lengths[-1]), True
    first = lengths.index(reached[0])
    if first == 0:
        return float(lengths[0]), True
    short, long = lengths[first - 1], lengths[first]
    if math.isinf(losses[short]):
        return float(long), False
    share = (losses[short] - target) / (losses[short] - losses[long])
    return short * (long / short) ** share, False
