"""Augmentation by reparametrisation: the same network, its weights held at another scale."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from celo2.tasks.base import Params, TaskFamily


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reparametrize:
    """A family whose tasks hold w / alpha and run with alpha * w, alpha log-uniform in [low, high], one a task.

    The function that the network computes at first is unchanged; the size of its gradients and of its useful steps is
    not, which is what a rule has to cope with on networks it has never seen.
    """

    family: TaskFamily
    low: float = dataclasses.field(metadata={"static": True})
    high: float = dataclasses.field(metadata={"static": True})

    def sample(self, key: jax.Array) -> tuple[Any, jax.Array]:
        inner, outer = jax.random.split(key)
        log_alpha = jax.random.uniform(outer, (), minval=jnp.log(self.low), maxval=jnp.log(self.high))
        return self.family.sample(inner), jnp.exp(log_alpha)

    def init(self, key: jax.Array, task: tuple[Any, jax.Array]) -> Params:
        inner, alpha = task
        return {name: w / alpha for name, w in self.family.init(key, inner).items()}

    def batch(self, key: jax.Array, task: tuple[Any, jax.Array]) -> Any:
        return self.family.batch(key, task[0])

    def loss(self, params: Params, task: tuple[Any, jax.Array], batch: Any) -> jax.Array:
        inner, alpha = task
        return self.family.loss({name: alpha * w for name, w in params.items()}, inner, batch)
