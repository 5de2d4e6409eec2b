"""A comparison of optimizers: its runs, how they are recorded, and what they say together."""

from __future__ import annotations

import dataclasses
import math
import platform
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

import celo2
from celo2.data.text import Text
from celo2.errors import InputError
from celo2.evaluate.records import Records, theta_key
from celo2.evaluate.torch_demo.optimizers import TABLE, check_optimizer
from celo2.evaluate.torch_demo.train import RunConfig, RunResult
from celo2.theta import load_theta

VERSIONS = {"celo2": celo2.__version__, "torch": torch.__version__.partition("+")[0]}


@dataclasses.dataclass(frozen=True)
class Summary:
    """One optimizer at one learning rate, over its seeds."""

    optimizer: str
    learning_rate: float
    train: tuple[float, float]
    """Mean and deviation over seeds of the training loss over the last steps, nats per byte."""
    held_out: tuple[float, float]
    """The same of the held-out loss."""
    optimizer_milliseconds: float
    """Median of an optimizer step."""
    curve: np.ndarray
    """Training loss of each step, mean over seeds."""


def plan(
    names: Sequence[str], template: RunConfig, seeds: int, sweep: bool, muon_dtype: str
) -> list[RunConfig]:
    """Return the runs of a comparison, for each seed.

    Each optimizer runs at its recorded best learning rate, or at all of its sweep.

    Raises:
        InputError: no optimizers, an unknown one, or one twice; a number out of range.
    """
    if not names:
        raise InputError(f"optimizers is empty; give some of {', '.join(TABLE)}")
    if len(set(names)) < len(names):
        raise InputError(f"optimizers is {' '.join(names)}; give each of them once")
    if seeds < 1:
        raise InputError(f"seeds is {seeds}; give at least 1")
    configs = []
    for seed in range(template.seed, template.seed + seeds):
        for name in names:
            check_optimizer(name)
            dtype = muon_dtype if name.startswith("muon") else template.muon_dtype
            entry = TABLE[name]
            for learning_rate in entry.learning_rates if sweep else (entry.best,):
                changes: dict[str, Any] = {"optimizer": name, "learning_rate": learning_rate}
                changes |= {"seed": seed, "muon_dtype": dtype}
                configs.append(dataclasses.replace(template, **changes))
    return configs


def identity(config: RunConfig, data: Text) -> dict[str, Any]:
    """Return what decides a run's losses, but for the source of the demo itself."""
    theta = theta_key(load_theta(config.theta)) if config.optimizer.startswith("celo2") else None
    text = {"text": data.name, "text_sha256": data.sha256}
    return {"config": dataclasses.asdict(config), "theta": theta, **text, **VERSIONS}


def recorded(records: Records, config: RunConfig, data: Text) -> RunResult | None:
    """Return the result of a run, if it is recorded.

    Raises:
        InputError: its record is damaged.
    """
    record = records.find(identity(config, data))
    if record is None:
        return None
    try:
        numbers = record["losses"], record["held_out_loss"], record["optimizer_seconds"]
    except KeyError as error:
        raise InputError(
            f"a run of {config.optimizer} in {records.path} has no {error}; delete its line"
        ) from None
    losses, held_out_loss, seconds = numbers
    losses = [math.nan if loss is None else loss for loss in losses]
    held_out_loss = math.nan if held_out_loss is None else held_out_loss
    return RunResult(config, losses, held_out_loss, seconds)


def record(records: Records, result: RunResult, data: Text) -> None:
    """Record a finished run; null stands for a loss that is not finite."""

    def finite(loss: float) -> float | None:
        return round(loss, 5) if math.isfinite(loss) else None

    content = {
        "train_loss": finite(result.train_loss),
        "held_out_loss": finite(result.held_out_loss),
        "losses": [finite(loss) for loss in result.losses],
        "optimizer_seconds": [round(seconds, 6) for seconds in result.optimizer_seconds],
        "machine": platform.machine(),
    }
    records.add(identity(result.config, data), content)


def summarize(results: Sequence[RunResult]) -> list[Summary]:
    """Return one summary per optimizer and learning rate, in the order of the runs."""
    groups: dict[tuple[str, float], list[RunResult]] = {}
    for result in results:
        at = result.config.optimizer, result.config.learning_rate
        groups.setdefault(at, []).append(result)
    return list(map(_summary, groups.values()))


def best_of_each(summaries: Sequence[Summary]) -> list[Summary]:
    """Return each optimizer at its best learning rate, by held-out loss."""
    best: dict[str, Summary] = {}
    for summary in summaries:
        name = summary.optimizer
        if name not in best or held_out_loss(summary) < held_out_loss(best[name]):
            best[name] = summary
    return list(best.values())


def held_out_loss(summary: Summary) -> float:
    """Return what optimizers and learning rates are ranked by; a run that diverged comes last."""
    return summary.held_out[0] if math.isfinite(summary.held_out[0]) else math.inf


def _summary(group: Sequence[RunResult]) -> Summary:
    """Return the means over runs of one optimizer at one learning rate."""
    train, held_out, seconds, curves = [], [], [], []
    for result in group:
        train.append(result.train_loss)
        held_out.append(result.held_out_loss)
        seconds.append(result.optimizer_seconds)
        curves.append(result.losses)
    config = group[0].config
    return Summary(
        config.optimizer,
        config.learning_rate,
        _mean_and_deviation(train),
        _mean_and_deviation(held_out),
        1e3 * float(np.median(seconds)),
        np.mean(curves, axis=0),
    )


def _mean_and_deviation(values: list[float]) -> tuple[float, float]:
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return float(np.mean(values)), deviation
