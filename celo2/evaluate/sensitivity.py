"""How the loss changes with one setting at a time, around an optimizer's tuned settings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from celo2.errors import InputError
from celo2.evaluate.baselines import Baseline, Settings
from celo2.evaluate.records import Records
from celo2.evaluate.runs import RecordedLoss
from celo2.evaluate.scores import loss_of, recorded_score, run_of
from celo2.schedule import WARMUP

LEARNING_RATE = "learning_rate"
FACTORS = tuple(2.0**k for k in range(-7, 6))
"""Of the tuned learning rate: 3.6 decades."""
VALUES: dict[str, tuple[float, ...]] = {
    "weight_decay": (0.0, 0.03, 0.1, 0.3, 1.0, 3.0),
    "warmup": (0.0, 0.02, 0.05, 0.1, 0.2, 0.5),
    "adamw_lr_multiplier": (1.25, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0),
}
"""What is tried for the other settings; the multiplier only where an optimizer has one."""
TITLES = {
    LEARNING_RATE: "Learning rate",
    "weight_decay": "Weight decay",
    "warmup": "Warm-up, a fraction of the run",
    "adamw_lr_multiplier": "Learning rate of AdamW's part over that of hidden matrices",
}
DEFAULTS = {"weight_decay": 0.0, "warmup": WARMUP}
"""What settings that leave these out run at."""
TOLERANCE = 0.02
"""Excess over the lowest loss within which settings count as good."""

Curve = Mapping[float, float]
"""Held-out loss by the value of a setting."""


def sweeps(baseline: Baseline, tuned: Settings) -> dict[str, dict[float, Settings]]:
    """Return setting -> value -> settings to run: the tuned ones with one value changed."""
    if not baseline.grid.learning_rates:
        return {}
    tried = {LEARNING_RATE: tuple(factor * tuned[LEARNING_RATE] for factor in FACTORS), **VALUES}
    found = {}
    for name, values in tried.items():
        if name in tuned or name in DEFAULTS:
            found[name] = {value: _with(tuned, name, value) for value in values}
    return found


def _with(settings: Settings, name: str, value: float) -> Settings:
    """Change one value; a default is left out, as in the tuned settings, so that runs agree."""
    changed = {**settings, name: value}
    if value == DEFAULTS.get(name):
        del changed[name]
    return changed


def run_sweeps(
    loss: RecordedLoss, names: Sequence[str], seeds: Sequence[int]
) -> dict[str, dict[float, float]]:
    """Run the sweeps of some settings and return setting -> value -> mean loss.

    Raises:
        InputError: the optimizer was not tuned on this problem.
    """
    problem, baseline = loss.problem, loss.baseline
    tuned = recorded_score(loss.records, problem.name, problem.steps, baseline)
    if tuned is None:
        raise InputError(
            f"{loss.records.path} has no tuned {baseline.name} on {problem.name}; tune it first"
        )
    curves: dict[str, dict[float, float]] = {}
    for name, runs in sweeps(baseline, tuned.settings).items():
        if name in names:
            loss.make([(settings, seed) for settings in runs.values() for seed in seeds])
            curves[name] = {}
            for value, settings in runs.items():
                losses = [loss(settings, seed) for seed in seeds]
                curves[name][value] = sum(losses) / len(losses)
    return curves


def recorded_sweeps(
    records: Records, problem: str, steps: int, baseline: Baseline, seeds: Sequence[int]
) -> dict[str, dict[float, float]]:
    """Return the recorded setting -> value -> mean loss, of sweeps that are recorded by half.

    A few values may be there without one: tuned settings and the one configuration of all problems.
    """
    tuned = recorded_score(records, problem, steps, baseline)
    if tuned is None:
        return {}
    curves = {}
    for name, runs in sweeps(baseline, tuned.settings).items():
        curve = {}
        for value, settings in runs.items():
            losses = []
            for seed in seeds:
                record = records.find(run_of(problem, steps, baseline, settings, seed))
                if record is not None:
                    losses.append(loss_of(record))
            if losses:
                curve[value] = sum(losses) / len(losses)
        if 2 * len(curve) > len(runs):
            curves[name] = curve
    return curves


def band(curve: Curve) -> tuple[float, float]:
    """Return the lowest and highest value around the best with a loss within the tolerance.

    Between values the loss is taken to be linear in the value's logarithm. A band that reaches an
    end of the sweep ends there, so its width is then a lower bound.

    Args:
        curve: losses at positive values.
    """
    values = sorted(curve)
    best = min(values, key=curve.__getitem__)
    limit = (1 + TOLERANCE) * curve[best]
    middle = values.index(best)
    return _edge(curve, values[middle::-1], limit), _edge(curve, values[middle:], limit)


def _edge(curve: Curve, values: Sequence[float], limit: float) -> float:
    """Return where the loss passes the limit on the way through `values`, from the best on."""
    for inside, outside in itertools.pairwise(values):
        if curve[outside] > limit:
            if math.isinf(curve[outside]):
                return inside
            share = (limit - curve[inside]) / (curve[outside] - curve[inside])
            return inside * (outside / inside) ** share
    return values[-1]
