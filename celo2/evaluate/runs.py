"""Runs of one optimizer on one problem: looked up in the records, or trained now and recorded."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax

from celo2.evaluate.baselines import Baseline, Settings
from celo2.evaluate.records import Records
from celo2.evaluate.scores import loss_of, run_of
from celo2.evaluate.suites import Problem
from celo2.evaluate.train import train
from celo2.provenance import provenance

Train = Callable[[Problem, Baseline, Settings, int], dict[str, Any]]
Loss = Callable[[Settings, int], float]
"""Held-out loss of a run by settings and seed; infinite if it diverged."""
DIGITS = 7
"""Significant ones of recorded numbers: those of float32."""


@dataclasses.dataclass(frozen=True)
class RecordedLoss:
    """Held-out loss of a baseline on a problem. Data are loaded when the first run needs them."""

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
        diverged = result["loss"] is None
        return {**result, "diverged": diverged, **provenance("jax", "optax")}


def _as_json(value: Any) -> Any:
    """Round numbers; JSON has none that is not finite, and null stands for it."""
    if isinstance(value, dict):
        return {name: _as_json(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_as_json(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value
