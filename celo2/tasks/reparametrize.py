"""Augmentation by reparametrisation: the same network, its weights held at another scale."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from celo2.tasks.base import Params, TaskFamily

Granularity = Literal["network", "tensor", "entry"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reparametrize:
    """A family whose tasks hold w / alpha and run with alpha * w, alpha log-uniform in [low, high].

    One alpha is drawn for the whole network (as published), for each tensor, or for each entry. The function that the
    network computes at first is unchanged; the size of its gradients and of its useful steps is not, which is what a rule
    has to cope with on networks it has never seen.
    """

    family: TaskFamily
    low: float = dataclasses.field(metadata={"static": True})
    high: float = dataclasses.field(metadata={"static": True})
    granularity: Granularity = dataclasses.field(default="network", metadata={"static": True})

    def sample(self, key: jax.Array) -> tuple[Any, Params]:
        inner_key, init_key, alpha_key = jax.random.split(key, 3)
        task = self.family.sample(inner_key)
        params = jax.eval_shape(self.family.init, init_key, task)
        return task, self._alphas(alpha_key, params)

    def init(self, key: jax.Array, task: tuple[Any, Params]) -> Params:
        inner, alphas = task
        return {name: w / alphas[name] for name, w in self.family.init(key, inner).items()}

    def batch(self, key: jax.Array, task: tuple[Any, Params]) -> Any:
        return self.family.batch(key, task[0])

    def held_out(self, key: jax.Array, task: tuple[Any, Params]) -> Any:
        return self.family.held_out(key, task[0])

    def loss(self, params: Params, task: tuple[Any, Params], batch: Any) -> jax.Array:
        inner, alphas = task
        return self.family.loss({name: alphas[name] * w for name, w in params.items()}, inner, batch)

    def _alphas(self, key: jax.Array, params: Any) -> Params:
        """The scale of each tensor; an array of its shape where entries differ."""
        keys = jax.random.split(key, len(params))
        bounds = jnp.log(jnp.float32(self.low)), jnp.log(jnp.float32(self.high))

        def draw(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            return jnp.exp(jax.random.uniform(key, shape, minval=bounds[0], maxval=bounds[1]))

        if self.granularity == "network":
            keys = [key] * len(params)
        entry = self.granularity == "entry"
        return {name: draw(k, p.shape if entry else ()) for k, (name, p) in zip(keys, params.items(), strict=True)}
