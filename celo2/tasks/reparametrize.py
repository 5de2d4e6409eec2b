"""Augmentation by reparametrization: the same network with its weights stored at another scale."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from celo2.tasks.base import Metrics, ModelState, Params, TaskFamily

Granularity = Literal["network", "tensor", "entry"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reparametrize:
    """A family whose networks store w / alpha and run with alpha * w, alpha log-uniform in a range.

    One alpha is drawn per network (as published), per tensor, or per entry. The function that the
    network computes at first is unchanged. The size of its gradients and of its useful steps is
    not, and a rule has to cope with that on networks it was never trained on.
    """

    family: TaskFamily
    low: float = dataclasses.field(metadata={"static": True})
    high: float = dataclasses.field(metadata={"static": True})
    granularity: Granularity = dataclasses.field(default="network", metadata={"static": True})

    def sample(self, key: jax.Array) -> tuple[Any, Params]:
        inner_key, init_key, alpha_key = jax.random.split(key, 3)
        task = self.family.sample(inner_key)
        params, _ = jax.eval_shape(self.family.init, init_key, task)
        return task, self._alphas(alpha_key, params)

    def init(self, key: jax.Array, task: tuple[Any, Params]) -> tuple[Params, ModelState]:
        inner, alphas = task
        params, state = self.family.init(key, inner)
        return {name: w / alphas[name] for name, w in params.items()}, state

    def loss(
        self, params: Params, state: ModelState, task: tuple[Any, Params], key: jax.Array
    ) -> tuple[jax.Array, ModelState]:
        inner, alphas = task
        return self.family.loss(_scaled(params, alphas), state, inner, key)

    def evaluate(
        self, params: Params, state: ModelState, task: tuple[Any, Params], key: jax.Array
    ) -> Metrics:
        inner, alphas = task
        return self.family.evaluate(_scaled(params, alphas), state, inner, key)

    def _alphas(self, key: jax.Array, params: Any) -> Params:
        """Draw the scale of each tensor: an array of its shape where entries differ."""
        keys = jax.random.split(key, len(params))
        if self.granularity == "network":
            keys = [key] * len(params)
        low, high = (jnp.log(jnp.float32(bound)) for bound in (self.low, self.high))
        alphas = {}
        for alpha_key, (name, p) in zip(keys, params.items(), strict=True):
            shape = p.shape if self.granularity == "entry" else ()
            alphas[name] = jnp.exp(jax.random.uniform(alpha_key, shape, minval=low, maxval=high))
        return alphas


def _scaled(params: Params, alphas: Params) -> Params:
    """Compute the weights that the network runs with."""
    return {name: alphas[name] * w for name, w in params.items()}
