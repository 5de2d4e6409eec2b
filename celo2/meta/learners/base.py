"""What a learner is: learned numbers at work on one network in training."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol

import jax

from celo2.tasks.base import Params

Weights = Any
"""Learned numbers, theta: a pytree of float32 arrays such as `celo2.rule.Weights`."""

Name = Literal["rule", "celo-mlp", "celo", "celo-adam", "velo"]


class Run(NamedTuple):
    """What an update may read besides the network: of the run it belongs to."""

    loss: jax.Array
    """Training loss before the update."""
    horizon: jax.Array
    """Number of steps of the run."""


class Learner(Protocol):
    """An optimizer with learned numbers: a frozen dataclass, static under jit, pure methods."""

    def init(self, params: Params) -> Any:
        """Initialize the running statistics of a network, a pytree."""
        ...

    def update(
        self, theta: Weights, params: Params, statistics: Any, grads: Params, run: Run
    ) -> tuple[Params, Any]:
        """Return the updates of all parameters, to be subtracted, and new statistics."""
        ...

    def mask_frozen(self, gradient: Weights) -> Weights:
        """Return the gradient of theta with zeros for what this phase does not learn."""
        ...
