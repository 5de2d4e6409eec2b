"""Regression from rows of features: the data set, and a residual network for tables."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from celo2.tasks.base import Params, Supervised
from celo2.tasks.layers import layer_norm, linear, linear_params, norm_params, select


class Rows(NamedTuple):
    """A batch, or a table."""

    features: jax.Array
    """(n, features) float32"""
    target: jax.Array
    """(n, outputs) float32"""


def rows(features: np.ndarray, target: np.ndarray) -> Rows:
    """Put rows on the device."""
    return Rows(jnp.asarray(features, jnp.float32), jnp.asarray(target, jnp.float32))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Table:
    """Random rows of one table; there is one task."""

    train: Rows
    held_out: Rows
    """Never trained on."""
    batch_size: int = dataclasses.field(metadata={"static": True})

    def sample(self, key: jax.Array) -> jax.Array:
        """Return the one task."""
        return jnp.zeros(())

    def batch(self, key: jax.Array, task: jax.Array) -> Rows:
        """Draw rows to train on, with replacement."""
        return self._drawn(key, self.train)

    def held_out_batch(self, key: jax.Array, task: jax.Array) -> Rows:
        """Draw rows that are not trained on, with replacement."""
        return self._drawn(key, self.held_out)

    def _drawn(self, key: jax.Array, rows: Rows) -> Rows:
        index = jax.random.randint(key, (self.batch_size,), 0, len(rows.target))
        return Rows(rows.features[index], rows.target[index])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TabularResNet(Supervised):
    """Residual blocks of LayerNorm and two layers (Gorishniy et al. 2021); mean squared error."""

    width: int = dataclasses.field(default=128, metadata={"static": True})
    depth: int = dataclasses.field(default=3, metadata={"static": True})

    def init_params(self, key: jax.Array) -> Params:
        first_key, head_key, *keys = jax.random.split(key, 2 + self.depth)
        features, outputs = self.data.train.features.shape[-1], self.data.train.target.shape[-1]
        params = linear_params(first_key, "first", (features, self.width))
        for i, block_key in enumerate(keys):
            up, down = jax.random.split(block_key)
            params |= norm_params(f"blocks.{i}.norm", self.width)
            params |= linear_params(up, f"blocks.{i}.up", (self.width, self.width))
            params |= linear_params(down, f"blocks.{i}.down", (self.width, self.width))
        params |= norm_params("norm", self.width)
        return params | linear_params(head_key, "head", (self.width, outputs))

    def batch_loss(self, params: Params, batch: Rows) -> jax.Array:
        h = linear(params, "first", batch.features)
        for i in range(self.depth):
            block = select(params, f"blocks.{i}")
            h = h + linear(
                block, "down", jax.nn.relu(linear(block, "up", layer_norm(block, "norm", h)))
            )
        outputs = linear(params, "head", jax.nn.relu(layer_norm(params, "norm", h)))
        return jnp.square(outputs - batch.target).mean()
