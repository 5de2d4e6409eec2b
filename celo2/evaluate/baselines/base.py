"""What the comparison needs of an optimizer: how it is built, and which settings are tried."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import optax

from celo2.evaluate.records import theta_key
from celo2.schedule import warmup_cosine
from celo2.theta import Theta

Settings = Mapping[str, Any]
"""Numbers that are tuned, `learning_rate` and others; they may be traced, so that one compiled
program serves a whole grid."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """The settings to try: for each of `others`, learning rates until the best is interior."""

    learning_rates: tuple[float, ...]
    """Ascending, by factors of two; extended by more of them on the side where the best is."""
    others: tuple[Settings, ...]
    """All settings but the learning rate."""


@dataclasses.dataclass(frozen=True)
class Baseline:
    """An optimizer to tune and compare. Those that compare equal share one compiled program."""

    name: str
    build: Callable[[Settings, int], optax.GradientTransformationExtraArgs] = dataclasses.field(
        compare=False
    )
    """(settings, steps of the run) -> transformation. Its `update` is given `value`, the loss, and
    `weights`, the learned numbers, if there is a theta."""
    grid: Grid = dataclasses.field(compare=False)
    variant: Hashable = None
    """What tells it from others of its name and is compiled in: the spec of a theta."""
    theta: Theta | None = dataclasses.field(default=None, compare=False)
    """The learned numbers, an argument of the compiled program; none in a handwritten optimizer."""

    @property
    def identity(self) -> dict[str, Any]:
        """The fields of a record that name it."""
        return {"optimizer": self.name, "theta": theta_key(self.theta) if self.theta else None}


def schedule(learning_rate: Any, steps: int) -> optax.Schedule:
    """Return warm-up and cosine over `steps`, the same for all; the first step is not at zero."""
    return lambda count: learning_rate * warmup_cosine((count + 0.5) / steps)
