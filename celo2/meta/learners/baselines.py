"""The learners of Celo and VeLO (arXiv 2501.12670, 2211.09760), by `celo2.baselines`.

Celo is learned in two phases: first its MLP, whose steps are taken as they are, then the LSTM that
scales them. The other part has no gradient then, though weight decay still shrinks it, as in the
authors' meta-training. Celo-Adam has the second phase alone, VeLO one for everything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from celo2.baselines import (
    CeloWeights,
    VeloWeights,
    celo,
    celo_adam,
    celo_mlp,
    random_celo,
    random_velo,
    velo,
)
from celo2.meta.learners.base import Run
from celo2.tasks.base import Params

Theta = CeloWeights | VeloWeights


class _Kind(NamedTuple):
    """What distinguishes one of the optimizers, as a learner."""

    make: Callable[[Any, Any], optax.GradientTransformationExtraArgs]
    """(number of steps, weights) -> transformation."""
    part: str | None
    """The field of its weights that is learned; None: all."""


_KINDS = {
    "celo-mlp": _Kind(lambda steps, theta: celo_mlp(theta), "mlp"),
    "celo": _Kind(celo, "scheduler"),
    "celo-adam": _Kind(celo_adam, "scheduler"),
    "velo": _Kind(velo, None),
}


@dataclasses.dataclass(frozen=True)
class Baseline:
    """Celo or VeLO. They have no learning rate: train them at 1, without a schedule."""

    name: str
    lstm_width: int
    """Of the LSTM that scales the steps."""
    mlps: int
    """MLPs in VeLO's bank."""

    def random(self, seed: int) -> Theta:
        """Draw learned numbers as the authors' meta-training starts."""
        if self.name == "velo":
            return random_velo(seed, self.lstm_width, self.mlps)
        return random_celo(seed, self.lstm_width, mlp=self.name != "celo-adam")

    def init(self, params: Params) -> Any:
        """Initialize the statistics; their shapes are all that is read of the numbers here."""
        return self._optimizer(1, self.random(0)).init(params)

    def update(
        self, theta: Theta, params: Params, statistics: Any, grads: Params, run: Run
    ) -> tuple[Params, Any]:
        """Return the updates and new statistics."""
        optimizer = self._optimizer(run.horizon, theta)
        added, new = optimizer.update(grads, statistics, params, value=run.loss)
        # Optax adds updates, meta-training subtracts them.
        return jax.tree.map(lambda x: -x, added), new

    def mask_frozen(self, gradient: Theta) -> Theta:
        """Return the gradient with zeros in the part of the other phase."""
        part = _KINDS[self.name].part
        if part is None:
            return gradient
        others = {}
        for name, value in gradient._asdict().items():
            if name != part:
                others[name] = jax.tree.map(jnp.zeros_like, value)
        return gradient._replace(**others)

    def _optimizer(self, steps: Any, theta: Theta) -> optax.GradientTransformationExtraArgs:
        return _KINDS[self.name].make(steps, theta)
