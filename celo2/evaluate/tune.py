"""Scoring thetas and baselines on the validation problems: every one tuned by the same procedure, every run a line of JSON."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np

from celo2.errors import InputError
from celo2.evaluate.baselines import TUNED, Settings, Tuned
from celo2.evaluate.suites import VALIDATION, Problem, problem
from celo2.theta import Theta

EXTENSIONS = 5
"""How often a rate grid is extended at most."""


@dataclasses.dataclass(frozen=True)
class Contender:
    """What is scored: a baseline by name, or a theta under the name of its file."""

    name: str
    optimizer: str
    theta: Theta | None = None

    @property
    def identity(self) -> str:
        """What its runs are found by."""
        return f"{self.optimizer}@{self.theta.sha256[:16]}" if self.theta else self.optimizer


BASELINES = (Contender("AdamW", "adamw"), Contender("Muon", "muon"))


@dataclasses.dataclass(frozen=True)
class Score:
    """A contender on a problem, at its best settings."""

    settings: Settings
    losses: tuple[float, ...]
    """Held-out loss at the end, one a seed; infinite for a run that diverged."""

    @property
    def mean(self) -> float:
        """Over seeds."""
        return float(np.mean(self.losses))

    @property
    def deviation(self) -> float:
        """Over seeds, of the sample; NaN for one."""
        return float(np.std(self.losses, ddof=1)) if len(self.losses) > 1 else math.nan


class Runs:
    """The runs saved in a file, a line of JSON each, and new ones appended as they end.

    A last line that was cut is dropped from the file, unless others may be appending to it: `repair`.
    """

    def __init__(self, path: Path, repair: bool = True) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._losses: dict[str, float] = {}
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        for i, line in enumerate(lines):
            try:
                record = json.loads(line)
                self._losses[record["key"]] = math.inf if record["loss"] is None else record["loss"]
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                if i + 1 == len(lines) and not line.endswith("\n"):
                    if repair:  # the run that was being written when the machine stopped
                        self._drop_last(lines)
                    break
                raise InputError(
                    f"line {i + 1} of {path} is no run ({error!r}); delete the line or give another --out"
                ) from error

    def loss(self, problem: Problem, contender: Contender, settings: Settings, seed: int) -> float:
        """Held-out loss of a run: looked up, or run now."""
        key = json.dumps([problem.name, problem.steps, contender.identity, dict(sorted(settings.items())), seed])
        if key not in self._losses:
            from celo2.evaluate.train import train

            began = time.perf_counter()
            result = train(problem, contender.optimizer, settings, seed, contender.theta)
            finite = {name: round(value, 6) if math.isfinite(value) else None for name, value in result.items()}
            seconds = round(time.perf_counter() - began, 2)
            with self._path.open("a") as file:
                file.write(json.dumps({"key": key, **finite, "seconds": seconds}) + "\n")
            loss = finite["loss"]
            self._losses[key] = math.inf if loss is None else loss
        return self._losses[key]

    def _drop_last(self, lines: Sequence[str]) -> None:
        temporary = self._path.with_name(self._path.name + ".part")
        temporary.write_text("".join(lines[:-1]))
        os.replace(temporary, self._path)


def tune(runs: Runs, problem: Problem, contender: Contender, seeds: int, tuned: Tuned | None = None) -> Score:
    """The best settings on seed 0, then all seeds with them; over the optimizer's grid in TUNED, or another.

    The grid of rates is extended by factors of two at the side where the best lies on its edge, for each other setting.
    """
    tuned = tuned or TUNED[contender.optimizer]
    best: tuple[float, Settings] = (math.inf, {})
    for other in tuned.grid:
        losses: dict[float, float] = {}

        def run(rate: float, other: Mapping[str, float] = other, losses: dict[float, float] = losses) -> None:
            losses[rate] = runs.loss(problem, contender, {"learning_rate": rate, **other}, 0)

        for rate in tuned.rates:
            run(rate)
        for _ in range(EXTENSIONS):
            rate = min(losses, key=lambda r: losses[r])
            if rate == min(losses):
                run(rate / 2)
            elif rate == max(losses):
                run(rate * 2)
            else:
                break
        rate = min(losses, key=lambda r: losses[r])
        best = min(best, (losses[rate], {"learning_rate": rate, **other}), key=lambda x: x[0])
    settings = best[1] or {"learning_rate": tuned.rates[0], **tuned.grid[0]}
    return Score(settings, tuple(runs.loss(problem, contender, settings, seed) for seed in range(seeds)))


MULTIPLIER = {
    "byte-transformer": 20.0,
    "cifar10-conv": 5.0,
    "fashion-mlp": 5.0,
    "mnist-autoencoder": 20.0,
    "byte-lstm": 5.0,
}
"""Of AdamW's rate, by problem: Muon's best, at which thetas are screened."""


def screen(contender: Contender, out: Path, seeds: int = 3) -> dict[str, Score]:
    """A cheaper score for a search: two rates and more where the best is on the edge, AdamW's multiplier fixed."""
    runs, scores = Runs(out / "screening.jsonl"), {}
    for name, multiplier in MULTIPLIER.items():
        grid = dataclasses.replace(TUNED[contender.optimizer], rates=(2e-3, 4e-3), grid=({"adamw_lr_multiplier": multiplier},))
        scores[name] = tune(runs, problem(name), contender, seeds, grid)
    return scores


def validate(
    contenders: Sequence[Contender], names: Iterable[str], seeds: int, out: Path, jobs: int, longer: int = 1
) -> Iterable[tuple[str, str, Score]]:
    """(contender, problem, score) of each pair as it is done, on `jobs` processes of one thread.

    Raises:
        InputError: an unknown problem, data that cannot be had, or `out` is damaged.
    """
    for name in names:
        if name not in VALIDATION:
            raise InputError(f"unknown problem {name!r}: take some of {', '.join(VALIDATION)}")
    Runs(out / "runs.jsonl")
    work = [(contender, name) for name in names for contender in contenders]
    spawn = multiprocessing.get_context("spawn")  # JAX's threads do not survive a fork
    with _one_thread_each(), ProcessPoolExecutor(jobs, mp_context=spawn) as pool:
        futures = [pool.submit(_tune_one, contender, name, seeds, out, longer) for contender, name in work]
        try:
            yield from (future.result() for future in as_completed(futures))
        finally:
            pool.shutdown(cancel_futures=True)


def _tune_one(contender: Contender, name: str, seeds: int, out: Path, longer: int) -> tuple[str, str, Score]:
    return contender.name, name, tune(Runs(out / "runs.jsonl", repair=False), problem(name, longer), contender, seeds)


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


def relative(scores: Mapping[str, Mapping[str, Score]]) -> dict[str, dict[str, float]]:
    """Contender -> problem -> mean loss over that of the better baseline there; `scores` by contender, then problem."""
    baselines = [scores[b.name] for b in BASELINES]
    return {
        name: {p: score.mean / min(b[p].mean for b in baselines) for p, score in mine.items()} for name, mine in scores.items()
    }
