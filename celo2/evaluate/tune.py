"""Choosing settings on one seed and reporting others, by one procedure for every optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from celo2.evaluate.baselines import Grid, Settings
from celo2.evaluate.records import key
from celo2.evaluate.runs import Loss, make, score
from celo2.evaluate.scores import Score
from celo2.evaluate.suites import REPORTED_SEEDS, TUNING_SEED

EXTENSIONS = 5
"""How often the learning rates of a grid are extended at most."""
WEIGHT_DECAYS = (0.1, 1.0)
"""What a search within a number of runs tries besides the grid; 0 is where it starts."""
DECAYS = ("momentum", "b1", "b2")
"""Settings of which the distance from 1 counts."""


def tune(
    loss: Loss, grid: Grid, seeds: Sequence[int] = REPORTED_SEEDS, runs: int | None = None
) -> Score:
    """Choose the settings on the tuning seed, then run all `seeds` with them.

    Args:
        loss: of a run.
        grid: what to try; without learning rates, its first settings are taken.
        seeds: those that are reported.
        runs: how many runs the search may make. None: the whole grid.
    """
    if not grid.learning_rates:
        settings = grid.others[0]
    elif runs is None:
        settings = search_grid(loss, grid)
    else:
        settings = search_coordinates(loss, grid, runs)
    return score(loss, settings, seeds)


def search_grid(loss: Loss, grid: Grid) -> Settings:
    """Return the best settings of the grid, all of which are tried."""
    best: tuple[float, Settings] = (math.inf, {})
    make(loss, [(settings, TUNING_SEED) for settings in grid.settings])
    for other in grid.others:
        at = _at(loss, other)
        found, learning_rate = best_learning_rate(at, grid.learning_rates)
        if found < best[0]:
            best = found, {"learning_rate": learning_rate, **other}
    return best[1] or {"learning_rate": grid.learning_rates[0], **grid.others[0]}


def search_coordinates(loss: Loss, grid: Grid, runs: int) -> Settings:
    """Return the best settings found in `runs` runs, changing one setting at a time.

    Learning rates are halved and doubled as long as that helps; then each other value of each
    other setting is tried at the best settings so far, beyond the grid too where the best is at
    its edge, and the learning rate again where it helps, until nothing does. All optimizers have
    the same number of runs.
    """
    seen: dict[str, float] = {}

    def at(settings: Settings) -> float:
        if key(settings) not in seen:
            if len(seen) == runs:
                return math.nan  # no better than anything
            seen[key(settings)] = loss(settings, TUNING_SEED)
        return seen[key(settings)]

    middle = grid.learning_rates[len(grid.learning_rates) // 2]
    best = _best_scale(at, {"learning_rate": middle, **grid.others[0]})
    improved = True
    while improved:
        improved = False
        for other in _neighbors(grid, best):
            if at(other) < at(best):
                best, improved = _best_scale(at, other), True
                break
    return best


def _neighbors(grid: Grid, settings: Settings) -> Iterator[Settings]:
    """Yield the settings that differ in one of those that are no learning rate.

    First with the values of the grid, then with one beyond it for each setting at its edge.
    """
    axes = {**grid.axes, "weight_decay": WEIGHT_DECAYS}
    for name, values in axes.items():
        for value in values:
            if settings.get(name) != value:
                yield {**settings, name: value}
    for name, values in axes.items():
        value = settings.get(name)
        if value is not None and (value <= min(values) or value >= max(values)):
            yield {**settings, name: _beyond(name, value, up=value >= max(values))}


def _beyond(name: str, value: float, up: bool) -> float:
    """Return the next value of a setting: twice or half; of a decay, its distance from 1."""
    if name in DECAYS:
        value = 1 - (1 - value) * (0.5 if up else 2.0)
        return round(max(value, 0.0), 6)
    return value * (2.0 if up else 0.5)


def _best_scale(at: Callable[[Settings], float], settings: Settings) -> Settings:
    """Halve or double the learning rate as long as it helps; halve it where a run diverged."""
    for factor in (0.5, 2.0):
        for _ in range(2 * EXTENSIONS):
            other = {**settings, "learning_rate": factor * settings["learning_rate"]}
            both_diverged = factor < 1 and math.isinf(at(settings)) and math.isinf(at(other))
            if not (at(other) < at(settings) or both_diverged):
                break
            settings = other
    return settings


def best_learning_rate(
    loss: Callable[[float], float], learning_rates: Sequence[float]
) -> tuple[float, float]:
    """Return (lowest loss, its learning rate); the grid is extended until the best is interior."""
    losses = {learning_rate: loss(learning_rate) for learning_rate in learning_rates}
    for _ in range(EXTENSIONS):
        best = min(losses, key=losses.__getitem__)
        if best == min(losses):
            losses[best / 2] = loss(best / 2)
        elif best == max(losses):
            losses[best * 2] = loss(best * 2)
        else:
            break
    best = min(losses, key=losses.__getitem__)
    return losses[best], best


def _at(loss: Loss, other: Settings) -> Callable[[float], float]:
    return lambda learning_rate: loss({"learning_rate": learning_rate, **other}, TUNING_SEED)
