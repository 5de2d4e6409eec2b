"""What the comparison needs of an optimizer: how it is built, and which settings are tried."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import optax

from celo2.schedule import WARMUP, warmup_cosine

Settings = Mapping[str, Any]
"""Numbers that are tuned, `learning_rate` and others; they may be traced, so that one compiled
program serves a whole grid. `warmup` and `weight_decay` have defaults, so grids may omit them."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """The settings to try: for each of `others`, learning rates until the best is interior."""

    learning_rates: tuple[float, ...] = ()
    """Ascending, by factors of two; extended by more of them on the side where the best is. Empty
    for an optimizer that has none."""
    others: tuple[Settings, ...] = ({},)
    """All settings but the learning rate. A search by coordinates starts at the first."""

    @property
    def settings(self) -> list[Settings]:
        """All combinations; none for an optimizer without learning rates."""
        found = []
        for other in self.others:
            found += [{"learning_rate": rate, **other} for rate in self.learning_rates]
        return found

    @property
    def axes(self) -> dict[str, tuple[float, ...]]:
        """The values of each of the other settings, in the order of `others`."""
        values: dict[str, dict[float, None]] = {}
        for other in self.others:
            for name, value in other.items():
                values.setdefault(name, {})[value] = None
        return {name: tuple(found) for name, found in values.items()}


def combinations(**values: Sequence[float]) -> tuple[Settings, ...]:
    """Return the settings with each combination of the values of each; the last varies fastest."""
    return tuple(
        dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())
    )


def as_trained(state: Any, params: Any) -> Any:
    """Return the parameters as they are: most optimizers evaluate what they train."""
    del state
    return params


def no_report(state: Any) -> dict[str, Any]:
    """Return no numbers."""
    del state
    return {}


@dataclasses.dataclass(frozen=True)
class Baseline:
    """An optimizer to tune and compare. Those that compare equal share one compiled program."""

    name: str
    build: Callable[[Settings, int], optax.GradientTransformationExtraArgs] = dataclasses.field(
        compare=False
    )
    """(settings, steps of the run) -> transformation. Its `update` is given `value`, the loss, and
    `weights`, the learned numbers, if there are any."""
    grid: Grid = dataclasses.field(compare=False)
    variant: Hashable = None
    """What tells it from others of its name and is compiled in: the spec of a theta."""
    weights: Any = dataclasses.field(default=None, compare=False)
    """The learned numbers, a pytree that is an argument of the compiled program; none in a
    handwritten optimizer."""
    theta: str | None = dataclasses.field(default=None, compare=False)
    """The hash that stands for them in records."""
    evaluated: Callable[[Any, Any], Any] = dataclasses.field(default=as_trained, compare=False)
    """(state, params) -> the parameters to evaluate."""
    report: Callable[[Any], dict[str, Any]] = dataclasses.field(default=no_report, compare=False)
    """(state) -> what the optimizer has counted, for the record of the run."""

    @property
    def identity(self) -> dict[str, Any]:
        """The fields of a record that name it."""
        return {"optimizer": self.name, "theta": self.theta}


def schedule(settings: Settings, steps: int, multiplier: Any = 1.0) -> optax.Schedule:
    """Return warm-up and cosine over `steps`, the same for all; the first step is not at zero."""
    peak, warmup = multiplier * settings["learning_rate"], settings.get("warmup", WARMUP)
    return lambda count: peak * warmup_cosine((count + 0.5) / steps, warmup)


def weight_decay(settings: Settings) -> Any:
    """Return the decoupled weight decay, 0 where the settings have none."""
    return settings.get("weight_decay", 0.0)


def decaying(params: Any) -> Any:
    """Return which leaves have weight decay, under all optimizers: those of two and more axes."""
    return jax.tree.map(lambda p: p.ndim > 1, params)
