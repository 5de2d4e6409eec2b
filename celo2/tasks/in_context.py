"""Linear regression in context (Garg et al. 2022): a transformer that learns to fit lines."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from celo2.tasks.base import Params, Supervised
from celo2.tasks.blocks import apply_blocks, blocks_params
from celo2.tasks.layers import layer_norm, linear, linear_params, norm_params


class Prompts(NamedTuple):
    """A batch of prompts, each of points of one linear function."""

    x: jax.Array
    """(n, points, dimension)"""
    y: jax.Array
    """(n, points)"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LinearFunctions:
    """Linear functions and points drawn anew for every batch, both from a normal distribution.

    Those held out are drawn from another stream of random numbers.
    """

    dimension: int = dataclasses.field(default=5, metadata={"static": True})
    points: int = dataclasses.field(default=15, metadata={"static": True})
    batch_size: int = dataclasses.field(default=32, metadata={"static": True})

    def sample(self, key: jax.Array) -> jax.Array:
        """Return the one task."""
        return jnp.zeros(())

    def batch(self, key: jax.Array, task: jax.Array) -> Prompts:
        """Draw prompts to train on."""
        return self._drawn(jax.random.fold_in(key, 0))

    def held_out_batch(self, key: jax.Array, task: jax.Array) -> Prompts:
        """Draw prompts that are not trained on."""
        return self._drawn(jax.random.fold_in(key, 1))

    def _drawn(self, key: jax.Array) -> Prompts:
        weights_key, x_key = jax.random.split(key)
        w = jax.random.normal(weights_key, (self.batch_size, self.dimension, 1))
        x = jax.random.normal(x_key, (self.batch_size, self.points, self.dimension))
        return Prompts(x, (x @ w)[..., 0] / self.dimension**0.5)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class InContextRegression(Supervised):
    """A causal transformer over x1, y1, x2, y2, ... that predicts each y from what is before it.

    The loss is the mean squared error over all points, 1 for a prediction of zero.
    """

    width: int = dataclasses.field(default=64, metadata={"static": True})
    depth: int = dataclasses.field(default=3, metadata={"static": True})

    def init_params(self, key: jax.Array) -> Params:
        keys = jax.random.split(key, 4)
        params = linear_params(keys[0], "read_in", (self.data.dimension + 1, self.width))
        positions = 2 * self.data.points, self.width
        params["position_embedding"] = 0.02 * jax.random.normal(keys[1], positions)
        params |= blocks_params(keys[2], self.depth, self.width)
        return (
            params
            | norm_params("norm", self.width)
            | linear_params(keys[3], "head", (self.width, 1))
        )

    def predictions(self, params: Params, prompts: Prompts) -> jax.Array:
        """Predict each y (n, points) from the points before it and its own x."""
        x, y = prompts
        x_tokens = jnp.pad(x, ((0, 0), (0, 0), (0, 1)))
        y_tokens = jnp.pad(y[..., None], ((0, 0), (0, 0), (self.data.dimension, 0)))
        tokens = jnp.stack([x_tokens, y_tokens], 2).reshape(len(x), -1, x_tokens.shape[-1])
        h = linear(params, "read_in", tokens) + params["position_embedding"]
        h = layer_norm(params, "norm", apply_blocks(params, self.depth, h, causal=True))
        return linear(params, "head", h)[:, ::2, 0]

    def batch_loss(self, params: Params, batch: Prompts) -> jax.Array:
        return jnp.square(self.predictions(params, batch) - batch.y).mean()
