"""Choosing settings and scoring with them, by one procedure for every optimizer."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from celo2.errors import InputError
from celo2.evaluate.baselines import Baseline, Grid, Settings
from celo2.evaluate.records import Records
from celo2.evaluate.scores import Score, loss_of, run_of
from celo2.evaluate.suites import (
    REPORTED_SEEDS,
    TUNING_SEED,
    VALIDATION,
    Problem,
    check_problem,
    problem,
)
from celo2.evaluate.train import train
from celo2.provenance import provenance

EXTENSIONS = 5
"""How often the learning rates of a grid are extended at most."""

Train = Callable[[Problem, Baseline, Settings, int], dict[str, float]]
Loss = Callable[[Settings, int], float]
"""Held-out loss of a run by settings and seed; infinite if it diverged."""


@dataclasses.dataclass(frozen=True)
class RecordedLoss:
    """Held-out loss of a baseline on a problem: looked up, or trained for now and recorded."""

    records: Records
    problem: Problem
    baseline: Baseline
    train: Train = train

    def __call__(self, settings: Settings, seed: int) -> float:
        """Return the loss, infinite if the run diverged."""
        run = run_of(self.problem.name, self.problem.steps, self.baseline, settings, seed)
        record = self.records.find(run)
        if record is None:
            record = self.records.add(run, self._train(settings, seed))
        return loss_of(record)

    def _train(self, settings: Settings, seed: int) -> dict[str, Any]:
        began = time.perf_counter()
        result = self.train(self.problem, self.baseline, settings, seed)
        seconds = round(time.perf_counter() - began, 2)
        # JSON has no number that is not finite; null stands for it.
        losses = {k: round(v, 6) if math.isfinite(v) else None for k, v in result.items()}
        return {**losses, "seconds": seconds, **provenance("jax", "optax")}


def tune(loss: Loss, grid: Grid, seeds: Sequence[int] = REPORTED_SEEDS) -> Score:
    """Choose the settings on the tuning seed, then run all `seeds` with them."""
    best: tuple[float, Settings] = (math.inf, {})
    for other in grid.others:
        at = _at(loss, other)
        found, learning_rate = best_learning_rate(at, grid.learning_rates)
        if found < best[0]:
            best = found, {"learning_rate": learning_rate, **other}
    settings = best[1] or {"learning_rate": grid.learning_rates[0], **grid.others[0]}
    return Score(settings, {seed: loss(settings, seed) for seed in seeds})


def _at(loss: Loss, other: Settings) -> Callable[[float], float]:
    return lambda learning_rate: loss({"learning_rate": learning_rate, **other}, TUNING_SEED)


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


SCREENING_SEEDS = (0, 1, 2)
"""The tuning seed among them: screening is for a search, and no score that is reported."""


def screen(baseline: Baseline, path: Path) -> dict[str, Score]:
    """Score a theta cheaply: a short grid of learning rates, AdamW's multiplier given."""
    records, scores = Records(path), {}
    for name, entry in VALIDATION.items():
        grid = Grid((2e-3, 4e-3), ({"adamw_lr_multiplier": entry.adamw_lr_multiplier},))
        scores[name] = tune(RecordedLoss(records, problem(name), baseline), grid, SCREENING_SEEDS)
    return scores


@dataclasses.dataclass(frozen=True)
class Validation:
    """Scoring of candidates on problems of VALIDATION.

    Raises:
        InputError: a number out of range, no problems, or an unknown one.
    """

    candidates: Mapping[str, Baseline]
    """By the name to show."""
    problems: Sequence[str]
    path: Path
    """File of the runs; those that it holds are not repeated."""
    seeds: int = len(REPORTED_SEEDS)
    """Reported: 1, 2, ... up to this; seed 0 is for tuning."""
    longer: int = 1
    """Factor of the steps of each problem."""
    jobs: int = 1
    """Processes, of one thread each."""

    def __post_init__(self) -> None:
        for name in ("seeds", "longer", "jobs"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; give at least 1")
        if not self.problems:
            raise InputError("problems is empty; give at least one")
        for name in self.problems:
            check_problem(name, VALIDATION)
        Records(self.path)  # raises early if the file is damaged

    def run(self) -> Iterator[tuple[str, str, Score]]:
        """Yield (candidate, problem, score) of each pair as it is done.

        Raises:
            InputError: data that cannot be had.
        """
        work = [(candidate, name) for name in self.problems for candidate in self.candidates]
        spawn = multiprocessing.get_context("spawn")  # JAX's threads do not survive a fork
        with _one_thread_each(), ProcessPoolExecutor(self.jobs, mp_context=spawn) as pool:
            futures = [pool.submit(_score, self, *pair) for pair in work]
            try:
                for future in as_completed(futures):
                    yield future.result()
            finally:
                pool.shutdown(cancel_futures=True)


def _score(validation: Validation, candidate: str, name: str) -> tuple[str, str, Score]:
    baseline = validation.candidates[candidate]
    recorded = RecordedLoss(Records(validation.path), problem(name, validation.longer), baseline)
    seeds = range(TUNING_SEED + 1, TUNING_SEED + 1 + validation.seeds)
    return candidate, name, tune(recorded, baseline.grid, seeds)


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
