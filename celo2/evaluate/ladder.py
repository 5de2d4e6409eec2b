"""The ladder of GPTs: settings tuned on the first rung, and run on the others as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from celo2.errors import InputError
from celo2.evaluate.baselines import Baseline
from celo2.evaluate.records import Records
from celo2.evaluate.runs import RecordedLoss, score
from celo2.evaluate.scores import Score, loss_of, recorded_score, run_of
from celo2.evaluate.suites import LADDER, Problem


def run_carried(loss: RecordedLoss, first: Problem, seeds: Sequence[int]) -> Score:
    """Run a problem at the settings that were tuned on another, a smaller one.

    Raises:
        InputError: the optimizer is not tuned on it.
    """
    tuned = recorded_score(loss.records, first.name, first.steps, loss.baseline)
    if tuned is None:
        raise InputError(
            f"{loss.records.path} has no tuned {loss.baseline.name} on {first.name}; tune it first"
        )
    return score(loss, tuned.settings, seeds)


def recorded_ladder(
    records: Records, baselines: Mapping[str, Baseline], seeds: Sequence[int]
) -> dict[str, dict[str, Score]]:
    """Return rung -> optimizer -> score at the settings of the first rung; rungs without runs lack.

    A score is over those of `seeds` that are recorded.
    """
    first = next(iter(LADDER))
    found: dict[str, dict[str, Score]] = {}
    for title, baseline in baselines.items():
        tuned = recorded_score(records, first, LADDER[first].steps, baseline, seeds)
        if tuned is None:
            continue
        for rung, entry in LADDER.items():
            losses = {}
            for seed in seeds:
                record = records.find(run_of(rung, entry.steps, baseline, tuned.settings, seed))
                if record is not None:
                    losses[seed] = loss_of(record)
            if losses:
                found.setdefault(rung, {})[title] = Score(tuned.settings, losses)
    return found
