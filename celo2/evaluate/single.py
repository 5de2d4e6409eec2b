"""One configuration per optimizer, chosen on the validation problems, and its speed-up.

The configuration is the settings at which the optimizer does best over all validation problems at
once. Where runs of several lengths are recorded, the learning rate is a power law in the number
of steps. The benchmark's problems have no part in the choice.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

from celo2.errors import InputError
from celo2.evaluate.baselines import ADAMW, Baseline, Settings
from celo2.evaluate.intervals import steps_to
from celo2.evaluate.records import Records, key
from celo2.evaluate.runs import RecordedLoss, score
from celo2.evaluate.scores import Score, loss_of, recorded_score, run_of
from celo2.evaluate.suites import TUNING_SEED, VALIDATION

LENGTHS = (1, 10)
"""Multiples of the validation problems' steps that a configuration is chosen at."""
SHORTER = (1.5, 2.0, 3.0, 4.0)
"""The full length over the shorter ones that are run as long as they reach the target."""
LONGER = (1.5, 2.0, 3.0)
"""The longer ones over the full length, for an optimizer that misses the target."""


@dataclasses.dataclass(frozen=True)
class Configuration:
    """The settings of an optimizer for every problem and every number of steps."""

    others: Settings
    """All settings but the learning rate."""
    learning_rates: Mapping[int, float]
    """Number of steps -> the best learning rate there; between and beyond them, and from one of
    them alone, a power law. Empty for an optimizer that has none."""

    def settings(self, steps: int) -> Settings:
        """Return the settings of a run of so many steps."""
        if not self.learning_rates:
            return self.others
        return {"learning_rate": self.learning_rate(steps), **self.others}

    @property
    def exponent(self) -> float:
        """The power of the number of steps that the learning rate falls by."""
        if len(self.learning_rates) < 2:
            return 0.0
        (short, first), *_, (long, last) = sorted(self.learning_rates.items())
        return math.log(first / last) / math.log(long / short)

    def learning_rate(self, steps: int) -> float:
        """Return the learning rate, to three significant digits."""
        known = min(self.learning_rates)
        value = self.learning_rates[known] * (known / steps) ** self.exponent
        return float(f"{value:.3g}")


def choose(records: Records, baseline: Baseline) -> Configuration:
    """Return the configuration that is best over the recorded validation problems.

    Best is the geometric mean of losses over the lowest of this optimizer on the problem, all of
    them of the tuning seed. Only settings that were run on every problem of a length are compared.

    Raises:
        InputError: no settings were run on every validation problem.
    """
    if not baseline.grid.learning_rates:
        return Configuration(baseline.grid.others[0], {})
    by_length = {}
    for longer in LENGTHS:
        excess = _excess(records, baseline, longer)
        if excess:
            by_length[longer] = excess
    if LENGTHS[0] not in by_length:
        raise InputError(
            f"the validation runs in {records.path} have no settings of {baseline.name} on all "
            "problems; "
            f"run: celo2 validate --optimizers {baseline.name} --out {records.path.parent}"
        )
    # The other settings have to be the same at all lengths, the learning rate need not.
    base = next(iter(VALIDATION.values())).steps
    candidates = []
    for other in baseline.grid.others:
        means, learning_rates = [], {}
        for longer, excess in by_length.items():
            best = _best(excess, other)
            if best is None:
                break
            means.append(best[0])
            learning_rates[base * longer] = best[1]
        else:
            candidates.append((statistics.fmean(means), other, learning_rates))
    _, other, learning_rates = min(candidates, key=lambda candidate: candidate[0])
    return Configuration(other, learning_rates)


def _best(
    excess: Mapping[str, tuple[Settings, float]], other: Settings
) -> tuple[float, float] | None:
    """Return the lowest excess with these other settings, and its learning rate."""
    found = []
    for settings, mean in excess.values():
        rest = {name: value for name, value in settings.items() if name != "learning_rate"}
        if rest == other:
            found.append((mean, settings["learning_rate"]))
    return min(found) if found else None


def _excess(records: Records, baseline: Baseline, longer: int) -> dict[str, tuple[Settings, float]]:
    """Return key of settings -> (settings, mean log of loss over the best), of common settings.

    Empty where no problem was run at that length.
    """
    by_problem = []
    for problem, entry in VALIDATION.items():
        losses = _tuning_losses(records, baseline, problem, longer * entry.steps)
        if losses:
            by_problem.append(losses)
    if longer == 1 and len(by_problem) < len(VALIDATION):
        return {}
    if not by_problem:
        return {}
    found = {}
    for name in set.intersection(*map(set, by_problem)):
        logs = []
        for losses in by_problem:
            best = min(loss for _, loss in losses.values())
            logs.append(math.log(losses[name][1] / best))
        found[name] = by_problem[0][name][0], statistics.fmean(logs)
    return found


def _tuning_losses(
    records: Records, baseline: Baseline, problem: str, steps: int
) -> dict[str, tuple[Settings, float]]:
    """Return key of settings -> (settings, loss) of the runs on the tuning seed."""
    fixed = {"problem": problem, "steps": steps, "seed": TUNING_SEED, **baseline.identity}
    found = {}
    for record in records:
        run = record["run"]
        if fixed.items() <= run.items():
            found[key(run["settings"])] = run["settings"], loss_of(record)
    return found


def run_lengths(
    loss: RecordedLoss, configuration: Configuration, seeds: Sequence[int]
) -> dict[int, Score]:
    """Run one configuration at the full length and at others until they bracket tuned AdamW's loss.

    Raises:
        InputError: tuned AdamW is not recorded on the problem.
    """
    full = loss.problem.steps
    target = tuned_adamw(loss.records, loss.problem.name, full)
    scores: dict[int, Score] = {}

    def reaches(steps: int) -> bool:
        settings, at = configuration.settings(steps), loss.at(steps)
        scores[steps] = score(at, settings, seeds)
        return scores[steps].mean <= target.mean

    if reaches(full):
        for factor in SHORTER:
            if not reaches(round(full / factor)):
                break
    else:
        for factor in LONGER:
            if reaches(round(full * factor)):
                break
    return scores


def tuned_adamw(records: Records, problem: str, steps: int) -> Score:
    """Return tuned AdamW's recorded score, whose loss is the target.

    Raises:
        InputError: there is none.
    """
    score = recorded_score(records, problem, steps, ADAMW)
    if score is None:
        raise InputError(
            f"{records.path} has no tuned AdamW on {problem}, which speed-ups are to; "
            "run it first: celo2 bench --optimizers adamw"
        )
    return score


def recorded_lengths(
    records: Records,
    problem: str,
    full: int,
    baseline: Baseline,
    configuration: Configuration,
    seeds: Sequence[int],
) -> dict[int, Score]:
    """Return the scores of one configuration by number of steps, of the lengths recorded."""
    factors = (1.0, *[1 / factor for factor in SHORTER], *LONGER)
    scores = {}
    for factor in factors:
        steps = round(full * factor)
        settings = configuration.settings(steps)
        found = {}
        for seed in seeds:
            record = records.find(run_of(problem, steps, baseline, settings, seed))
            if record is not None:
                found[seed] = loss_of(record)
        if len(found) == len(seeds):
            scores[steps] = Score(settings, found)
    return scores


def speed_ups(scores: Mapping[int, Score], target: Score, full: int) -> tuple[list[float], bool]:
    """Return steps of tuned AdamW over steps to its loss, by seed, and whether one is a bound."""
    found, bounds = [], []
    for seed, loss in sorted(target.losses.items()):
        losses = {steps: score.losses[seed] for steps, score in scores.items()}
        steps, bound = steps_to(losses, loss)
        found.append(full / steps)
        bounds.append(bound)
    return found, any(bounds)
