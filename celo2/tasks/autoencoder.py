"""A deep autoencoder of grey images."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import optax

from celo2.tasks.base import Params, lecun, unit


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """ReLU layers down to a narrow code and up again; the loss is the binary cross-entropy of a pixel, in nats. One task."""

    images: jax.Array  # (n, pixels) uint8
    widths: tuple[int, ...] = dataclasses.field(default=(128, 64, 16), metadata={"static": True})
    batch_size: int = dataclasses.field(default=128, metadata={"static": True})

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(in, out) of each layer."""
        down = (self.images.shape[-1], *self.widths)
        return list(itertools.pairwise((*down, *reversed(down[:-1]))))

    def sample(self, key: jax.Array) -> jax.Array:
        return jnp.zeros(())

    def init(self, key: jax.Array, task: jax.Array) -> Params:
        params = {}
        for i, (layer_key, shape) in enumerate(zip(jax.random.split(key, len(self.shapes)), self.shapes, strict=True)):
            params[f"w{i}"] = jnp.sqrt(2.0) * lecun(layer_key, shape)
            params[f"b{i}"] = jnp.zeros(shape[1])
        return params

    def batch(self, key: jax.Array, task: jax.Array) -> jax.Array:
        return unit(self.images[jax.random.randint(key, (self.batch_size,), 0, len(self.images))])

    def loss(self, params: Params, task: jax.Array, batch: jax.Array) -> jax.Array:
        h, last = batch, len(self.shapes) - 1
        for i in range(last + 1):
            h = h @ params[f"w{i}"] + params[f"b{i}"]
            h = h if i in (last, last // 2) else jax.nn.relu(h)  # the code is linear
        return optax.sigmoid_binary_cross_entropy(h, batch).mean()
