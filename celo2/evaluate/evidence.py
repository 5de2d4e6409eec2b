"""What the recorded runs of the benchmark say: scores, speed-ups, sweeps and costs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from celo2.errors import InputError
from celo2.evaluate.agents import Scores, recorded
from celo2.evaluate.baselines import OPTIMIZERS, Baseline, Grid
from celo2.evaluate.intervals import paired_ratios
from celo2.evaluate.ladder import recorded_ladder
from celo2.evaluate.records import Records
from celo2.evaluate.scores import Score, recorded_score, run_of
from celo2.evaluate.sensitivity import recorded_sweeps
from celo2.evaluate.single import Configuration, choose, recorded_lengths, speed_ups
from celo2.evaluate.suites import BENCHMARK, REPORTED_SEEDS, TUNING_SEED
from celo2.evaluate.variants import recorded_variants

BASELINE = "AdamW"
"""What ratios and speed-ups are to, by its title."""


@dataclasses.dataclass(frozen=True)
class Speed:
    """The speed-up of one configuration of an optimizer over tuned AdamW on a problem."""

    score: Score
    """At AdamW's number of steps."""
    factors: Sequence[float]
    """Steps of tuned AdamW over steps to its loss, by seed; none where only runs of its number of
    steps are recorded, which say whether its loss is reached and not how soon."""
    bound: bool
    """Whether a factor is only known to be beyond the shortest or longest run."""


@dataclasses.dataclass(frozen=True)
class Evidence:
    """The records of the benchmark, and those of validation by which configurations are chosen."""

    records: Records
    validation: Records
    steps: Mapping[str, int]
    """Problem -> its number of steps."""
    seeds: Sequence[int] = REPORTED_SEEDS
    agents: Scores = dataclasses.field(default_factory=dict)
    """What `celo2 rl` recorded."""

    @functools.cached_property
    def baselines(self) -> dict[str, Baseline]:
        """The optimizers that have runs, by title, in the registry's order and then others."""
        recorded = {(r["run"]["optimizer"], r["run"]["theta"]) for r in self.records}
        found, known = {}, set()
        for optimizer in OPTIMIZERS.values():
            baseline = optimizer.make()
            if (baseline.name, baseline.theta) in recorded:
                found[optimizer.title] = baseline
                known.add((baseline.name, baseline.theta))
        for name, theta in sorted(recorded - known, key=str):
            title = f"{name} {theta}" if theta else name
            found[title] = Baseline(name, _not_built, Grid((1.0,)), theta=theta)
        return found

    @functools.cached_property
    def problems(self) -> list[str]:
        """The problems that an optimizer is tuned on, in the order of the suite."""
        tuned = set().union(*self.tuned.values())
        return [name for name in self.steps if name in tuned]

    @functools.cached_property
    def tuned(self) -> dict[str, dict[str, Score]]:
        """Optimizer -> problem -> score at its best settings."""
        return self.tuned_at(1)

    def tuned_at(self, longer: int) -> dict[str, dict[str, Score]]:
        """Return the scores at a multiple of the steps; optimizers without any are left out."""
        scores: dict[str, dict[str, Score]] = {}
        for title, baseline in self.baselines.items():
            mine = {}
            for name, steps in self.steps.items():
                score = recorded_score(self.records, name, longer * steps, baseline, self.seeds)
                if score is not None:
                    mine[name] = score
            if mine:
                scores[title] = mine
        return scores

    @functools.cached_property
    def configurations(self) -> dict[str, Configuration]:
        """The one configuration of each optimizer that has runs on the validation problems."""
        found = {}
        for title, baseline in self.baselines.items():
            try:
                found[title] = choose(self.validation, baseline)
            except InputError:
                continue  # not run there, so it has no row
        return found

    @functools.cached_property
    def single(self) -> dict[str, dict[str, Speed]]:
        """Optimizer -> problem -> what its one configuration reaches."""
        speeds: dict[str, dict[str, Speed]] = {}
        for title, configuration in self.configurations.items():
            mine = {}
            for problem, target in self.tuned.get(BASELINE, {}).items():
                full, seeds = self.steps[problem], list(target.losses)
                baseline = self.baselines[title]
                scores = recorded_lengths(
                    self.records, problem, full, baseline, configuration, seeds
                )
                if full in scores:
                    several = len(scores) > 1
                    factors, bound = speed_ups(scores, target, full) if several else ([], False)
                    mine[problem] = Speed(scores[full], factors, bound)
            if mine:
                speeds[title] = mine
        return speeds

    @functools.cached_property
    def sweeps(self) -> dict[str, dict[str, dict[str, dict[float, float]]]]:
        """Setting -> problem -> optimizer -> value -> loss."""
        found: dict[str, dict[str, dict[str, dict[float, float]]]] = {}
        for problem in self.problems:
            for title, baseline in self.baselines.items():
                curves = recorded_sweeps(
                    self.records, problem, self.steps[problem], baseline, self.seeds
                )
                for name, curve in curves.items():
                    found.setdefault(name, {}).setdefault(problem, {})[title] = curve
        return found

    @functools.cached_property
    def variants(self) -> dict[str, dict[str, dict[str, Mapping[float, float]]]]:
        """Problem -> variant -> optimizer -> factor on the tuned learning rate -> loss."""
        found: dict[str, dict[str, dict[str, Mapping[float, float]]]] = {}
        for problem in self.problems:
            for title, baseline in self.baselines.items():
                curves = recorded_variants(
                    self.records, problem, self.steps[problem], baseline, self.seeds
                )
                for variant, curve in curves.items():
                    found.setdefault(problem, {}).setdefault(variant, {})[title] = curve
        return found

    def tuning_runs(self, title: str) -> list[int]:
        """Return the number of runs on the tuning seed, for each problem that it is tuned on."""
        if not self.baselines[title].grid.learning_rates:
            return [0]  # what is recorded under its name was run for its tuned twin
        counts = []
        for problem in self.tuned[title]:
            fixed = {"problem": problem, "steps": self.steps[problem], "seed": TUNING_SEED}
            fixed |= self.baselines[title].identity
            counts.append(sum(fixed.items() <= record["run"].items() for record in self.records))
        return counts

    @functools.cached_property
    def longer(self) -> list[int]:
        """The multiples of the steps, above 1, at which a problem was run on the tuning seed."""
        found = set()
        for record in self.records:
            run = record["run"]
            base = self.steps.get(run["problem"])
            if base and run["seed"] == TUNING_SEED and run["steps"] % base == 0:
                found.add(run["steps"] // base)
        return sorted(found - {1})

    @functools.cached_property
    def ladder(self) -> dict[str, dict[str, Score]]:
        """Rung -> optimizer -> score at the settings that were tuned on the first rung."""
        return recorded_ladder(self.records, self.baselines, self.seeds)

    def tuned_records(self, title: str, problem: str) -> Iterator[dict[str, Any]]:
        """Yield the records of the reported seeds at the best settings."""
        score = self.tuned[title][problem]
        for seed in score.losses:
            run = run_of(problem, self.steps[problem], self.baselines[title], score.settings, seed)
            record = self.records.find(run)
            if record is not None:
                yield record

    def step_seconds(self, title: str, problem: str) -> float:
        """Return the shortest time of a step over all runs of an optimizer on a problem.

        Other work on the machine makes steps longer and never shorter.
        """
        fixed = {"problem": problem, **self.baselines[title].identity}
        times = []
        for record in self.records:
            timed = "seconds" in record and "side_by_side" not in record
            if fixed.items() <= record["run"].items() and timed:
                times.append(record["seconds"] / record["run"]["steps"])
        return min(times, default=float("nan"))


def evidence(root: Path, folder: Path | None = None) -> Evidence:
    """Return what the records of a checkout say, or those in another folder of the benchmark."""
    steps = {name: entry.steps for name, entry in BENCHMARK.items()}
    return Evidence(
        Records((folder or root / "records/benchmark") / "runs.jsonl"),
        Records(root / "records/validation/runs.jsonl"),
        steps,
        agents=recorded(root),
    )


def ratios(scores: Mapping[str, Score], baseline: Mapping[str, Score]) -> dict[str, list[float]]:
    """Return problem -> losses over the baseline's by seed, of the problems that both have."""
    found = {}
    for problem, score in scores.items():
        if problem in baseline:
            paired = paired_ratios(score, baseline[problem])
            if paired:
                found[problem] = paired
    return found


def won_and_lost(ratios: Iterable[Sequence[float]]) -> tuple[int, int, int]:
    """Return how many problems were won, lost, and undecided because seeds disagree."""
    won = lost = undecided = 0
    for paired in ratios:
        if max(paired) < 1:
            won += 1
        elif min(paired) > 1:
            lost += 1
        else:
            undecided += 1
    return won, lost, undecided


def _not_built(settings: Any, steps: int) -> Any:
    raise AssertionError("only its records are read")
