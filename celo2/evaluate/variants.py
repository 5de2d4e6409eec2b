"""How tuned settings carry over to variants of a problem, and by how much the learning rate is off.

A variant is the problem with another batch size or width, with its weights stored at another scale,
or with weights and gradients rounded to bfloat16. It is run at the settings that were best on the
problem itself, and at learning rates around them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from celo2.errors import InputError
from celo2.evaluate.baselines import Baseline, Settings
from celo2.evaluate.records import Records
from celo2.evaluate.runs import RecordedLoss
from celo2.evaluate.scores import loss_of, recorded_score, run_of
from celo2.evaluate.suites import Problem
from celo2.tasks.base import TaskFamily
from celo2.tasks.variants import VARIANTS

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Of the learning rate that is best on the problem itself."""


def varied(problem: Problem, variant: str) -> Problem:
    """Return a variant of a problem, under a name of its own.

    Raises:
        InputError: there is no such variant.
    """
    if variant not in VARIANTS:
        raise InputError(f"unknown variant {variant!r}: take some of {', '.join(VARIANTS)}")
    load = functools.partial(_load, problem, variant)
    name = variant_name(problem.name, variant)
    # As many held-out examples, whatever the size of a batch.
    batches = max(1, round(problem.held_out_batches / VARIANTS[variant].batch_factor))
    return Problem(name, load, problem.steps, batches)


def variant_name(problem: str, variant: str) -> str:
    """Return the name of a variant in records."""
    return f"{problem}, {variant}"


def _load(problem: Problem, variant: str) -> TaskFamily:
    return VARIANTS[variant].make(problem.family)


def around(baseline: Baseline, tuned: Settings) -> dict[float, Settings]:
    """Return factor on the learning rate -> settings; nothing tuned has one that is 1."""
    if not baseline.grid.learning_rates:
        return {1.0: tuned}
    at = tuned["learning_rate"]
    return {factor: {**tuned, "learning_rate": factor * at} for factor in FACTORS}


def run_around(loss: RecordedLoss, original: Problem, seeds: Sequence[int]) -> dict[float, float]:
    """Run a variant around the settings of the original; return factor -> mean loss.

    Raises:
        InputError: the optimizer is not tuned on the original.
    """
    tuned = recorded_score(loss.records, original.name, original.steps, loss.baseline)
    if tuned is None:
        raise InputError(
            f"{loss.records.path} has no tuned {loss.baseline.name} on {original.name}; "
            "tune it first"
        )
    found, settings_of = {}, around(loss.baseline, tuned.settings)
    loss.make([(settings, seed) for settings in settings_of.values() for seed in seeds])
    for factor, settings in settings_of.items():
        losses = [loss(settings, seed) for seed in seeds]
        found[factor] = sum(losses) / len(losses)
    return found


def recorded_variants(
    records: Records, problem: str, steps: int, baseline: Baseline, seeds: Sequence[int]
) -> dict[str, Mapping[float, float]]:
    """Return variant -> factor on the learning rate -> mean loss, of those that are recorded."""
    tuned = recorded_score(records, problem, steps, baseline)
    if tuned is None:
        return {}
    found: dict[str, Mapping[float, float]] = {}
    for variant in VARIANTS:
        curve: dict[float, dict[int, float]] = {}
        for factor, settings in around(baseline, tuned.settings).items():
            losses = {}
            for seed in seeds:
                name = variant_name(problem, variant)
                record = records.find(run_of(name, steps, baseline, settings, seed))
                if record is not None:
                    losses[seed] = loss_of(record)
            if losses:
                curve[factor] = losses
        # A ratio of means is of the same seeds.
        shared = set.intersection(*map(set, curve.values())) if 1.0 in curve else set()
        if shared:
            found[variant] = {
                factor: sum(losses[seed] for seed in shared) / len(shared)
                for factor, losses in curve.items()
            }
    return found
