"""Runs of one optimizer on one problem: looked up in the records, or trained now and recorded."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax

from celo2.evaluate.baselines import Baseline, Settings
from celo2.evaluate.records import Records
from celo2.evaluate.scores import Score, loss_of, run_of
from celo2.evaluate.suites import Problem
from celo2.evaluate.train import train, train_side_by_side
from celo2.provenance import provenance

Train = Callable[[Problem, Baseline, Settings, int], dict[str, Any]]
Loss = Callable[[Settings, int], float]
"""Held-out loss of a run by settings and seed; infinite if it diverged."""
SIDE_BY_SIDE = 16
"""Runs of a sweep that an accelerator makes at once. A CPU makes one after the other."""
DIGITS = 7
"""Significant ones of recorded numbers: those of float32."""


@dataclasses.dataclass(frozen=True)
class RecordedLoss:
    """Held-out loss of a baseline on a problem. Data are loaded when the first run needs them."""

    records: Records
    problem: Problem
    baseline: Baseline
    train: Train = train
    side_by_side: int | None = None
    """Runs that are made at once where several are known; None: 1 on a CPU, else `SIDE_BY_SIDE`."""

    def __call__(self, settings: Settings, seed: int) -> float:
        """Return the loss, infinite if the run diverged."""
        run = self._run(settings, seed)
        record = self.records.find(run)
        if record is None:
            record = self.records.add(run, self._train(settings, seed))
        return loss_of(record)

    def make(self, runs: Sequence[tuple[Settings, int]]) -> None:
        """Make those of several runs that are not recorded, as far as they can be made at once.

        What fails together is left to be made alone, which tells the run that fails.
        """
        most = self.side_by_side
        if most is None:
            most = 1 if jax.default_backend() == "cpu" else SIDE_BY_SIDE
        if most == 1:
            return
        alike: dict[tuple[str, ...], list[tuple[Settings, int]]] = {}
        for settings, seed in runs:
            if self.records.find(self._run(settings, seed)) is None:
                alike.setdefault(tuple(sorted(settings)), []).append((settings, seed))
        for missing in alike.values():
            for first in range(0, len(missing), most):
                with contextlib.suppress(Exception):
                    self._make(missing[first : first + most])

    def _run(self, settings: Settings, seed: int) -> dict[str, Any]:
        """Return the run as records have it."""
        return run_of(self.problem.name, self.problem.steps, self.baseline, settings, seed)

    def _make(self, runs: Sequence[tuple[Settings, int]]) -> None:
        results = train_side_by_side(self.problem, self.baseline, runs)
        for (settings, seed), result in zip(runs, results, strict=True):
            self.records.add(self._run(settings, seed), _recorded(_as_json(result)))

    def at(self, steps: int) -> RecordedLoss:
        """Return the same for another number of steps, with a schedule of that length."""
        return dataclasses.replace(self, problem=dataclasses.replace(self.problem, steps=steps))

    def _train(self, settings: Settings, seed: int) -> dict[str, Any]:
        _ = self.problem.family  # data that cannot be had are the user's to mend, and no result
        try:
            result = _as_json(self.train(self.problem, self.baseline, settings, seed))
        except (MemoryError, jax.errors.JaxRuntimeError):
            raise  # of this machine, not of the optimizer
        except Exception as error:
            # An optimizer that fails has lost; the others continue.
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            result = {"loss": None, "error": reason}
        return _recorded(result)


def score(loss: Loss, settings: Settings, seeds: Sequence[int]) -> Score:
    """Return the losses of the seeds at these settings."""
    make(loss, [(settings, seed) for seed in seeds])
    return Score(settings, {seed: loss(settings, seed) for seed in seeds})


def make(loss: Loss, runs: Sequence[tuple[Settings, int]]) -> None:
    """Make runs that will be asked for, at once where that is faster; see `RecordedLoss.make`."""
    if isinstance(loss, RecordedLoss):
        loss.make(runs)


def _recorded(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result with what records add."""
    return {**result, "diverged": result["loss"] is None, **provenance("jax", "optax")}


def _as_json(value: Any) -> Any:
    """Round numbers; JSON has none that is not finite, and null stands for it."""
    if isinstance(value, dict):
        return {name: _as_json(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_as_json(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value
