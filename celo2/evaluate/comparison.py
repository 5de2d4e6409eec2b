"""Candidates on the problems of a suite: which runs are made, and by which processes.

There are five kinds of runs: tuning; one configuration at several lengths; and, by the settings
that tuning found, which the same file must hold, sweeps of one setting, variants of a problem, and
the rungs of the ladder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import joblib

from celo2.data.cache import cache
from celo2.errors import InputError
from celo2.evaluate.baselines import Baseline
from celo2.evaluate.ladder import run_carried
from celo2.evaluate.records import Records
from celo2.evaluate.runs import RecordedLoss
from celo2.evaluate.sensitivity import run_sweeps
from celo2.evaluate.single import choose, run_lengths
from celo2.evaluate.suites import REPORTED_SEEDS, TUNING_SEED, Problem
from celo2.evaluate.tune import tune
from celo2.evaluate.variants import run_around, varied

TUNING_RUNS = 12
"""Of each search in the benchmark."""
Plan = Callable[[RecordedLoss], Any]
"""Makes the runs of a candidate on a problem, one after the other, and returns what they gave."""


@dataclasses.dataclass(frozen=True)
class Unit:
    """Runs of one candidate on one problem: made in one process, so that they share programs."""

    candidate: str
    baseline: Baseline
    problem: Problem
    plan: Plan


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Runs of candidates on problems.

    Raises:
        InputError: a number out of range, no problems, or an unknown one.
    """

    candidates: Mapping[str, Baseline]
    """By the name to show."""
    problems: Sequence[Problem]
    path: Path
    """File of the runs; those that it holds are not repeated."""
    seeds: int = len(REPORTED_SEEDS)
    """Reported: 1, 2, ... up to this; seed 0 is for tuning."""
    tuning_runs: int | None = None
    """Runs of each search at most; None: the whole grid."""
    jobs: int = 1
    """Processes, of one thread each."""
    side_by_side: int | None = None
    """Runs of a sweep that are made at once; None: 1 on a CPU, 16 on an accelerator."""

    def __post_init__(self) -> None:
        for name in ("seeds", "jobs", "tuning_runs", "side_by_side"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; give at least 1")
        if not self.problems:
            raise InputError("problems is empty; give at least one")
        Records(self.path)  # raises early if the file is damaged

    @property
    def reported(self) -> range:
        """The seeds that are reported."""
        return range(TUNING_SEED + 1, TUNING_SEED + 1 + self.seeds)

    def tuning(self) -> list[Unit]:
        """Return the runs that tune each candidate, whose plan returns a `Score`."""

        def plan(baseline: Baseline) -> Plan:
            return functools.partial(
                tune, grid=baseline.grid, seeds=self.reported, runs=self.tuning_runs
            )

        return self._units(plan)

    def single(self, validation: Path) -> list[Unit]:
        """Return the runs of one configuration each, whose plan returns scores by length.

        Raises:
            InputError: a candidate was not run on the validation problems.
        """
        records = Records(validation)

        def plan(baseline: Baseline) -> Plan:
            configuration = choose(records, baseline)
            return functools.partial(run_lengths, configuration=configuration, seeds=self.reported)

        return self._units(plan)

    def sensitivity(self, names: Sequence[str]) -> list[Unit]:
        """Return the sweeps of these settings, whose plan returns losses by setting and value."""
        plan = functools.partial(run_sweeps, names=names, seeds=self.reported)
        return self._units(lambda baseline: plan)

    def variants(self, names: Sequence[str]) -> list[Unit]:
        """Return the runs on these variants of each problem, whose plan returns losses by factor.

        Raises:
            InputError: an unknown variant.
        """
        units = []
        for candidate, baseline in self.candidates.items():
            for original in self.problems:
                plan = functools.partial(run_around, original=original, seeds=self.reported)
                for name in names:
                    units.append(Unit(candidate, baseline, varied(original, name), plan))
        return units

    def carried(self, first: Problem) -> list[Unit]:
        """Return the runs at the settings that were tuned on `first`, whose plan returns scores."""
        plan = functools.partial(run_carried, first=first, seeds=self.reported)
        return self._units(lambda baseline: plan)

    def _units(self, plan: Callable[[Baseline], Plan]) -> list[Unit]:
        """Return one unit per candidate and problem, all problems of a candidate together."""
        units = []
        for candidate, baseline in self.candidates.items():
            made = plan(baseline)
            units += [Unit(candidate, baseline, each, made) for each in self.problems]
        return units

    def run(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, Any]]:
        """Yield each unit, as it is done, with what its plan returned.

        Workers are joblib's: processes of this machine, or those of the backend that
        `joblib.parallel_config` has chosen, on a cluster dask's. What the file of records holds is
        not run again, so a comparison resumes where it was interrupted.

        Raises:
            InputError: data that cannot be had, or tuned runs that are needed and not recorded.
        """
        parallel = joblib.Parallel(self.jobs, return_as="generator_unordered")
        with _one_thread_each(), warnings.catch_warnings():
            # Workers that have grown are replaced between units, and nothing is lost.
            warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
            run = joblib.delayed(_run)
            done = parallel(run(unit, self.path, self.side_by_side) for unit in units)
            yield from cast("Iterator[tuple[Unit, Any]]", done)


def _run(unit: Unit, path: Path, side_by_side: int | None) -> tuple[Unit, Any]:
    # Compiling takes as long as a short run, and every interrupted or later part would repeat it.
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache() / "xla"))
    records = Records(path)
    loss = RecordedLoss(records, unit.problem, unit.baseline, side_by_side=side_by_side)
    return unit, unit.plan(loss)


ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Workers that start inside use one thread; small products gain nothing from two."""
    before = os.environ.get("XLA_FLAGS")
    os.environ["XLA_FLAGS"] = f"{before or ''} {ONE_THREAD}".strip()
    try:
        yield
    finally:
        if before is None:
            del os.environ["XLA_FLAGS"]
        else:
            os.environ["XLA_FLAGS"] = before
