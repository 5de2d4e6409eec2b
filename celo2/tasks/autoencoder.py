"""A deep autoencoder of grey images."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import optax

from celo2.tasks.base import Params, Split, lecun, unit


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """ReLU layers down to a narrow code and up again; the loss is the binary cross-entropy of a pixel, in nats.

    A task is a split of the images.
    """

    images: jax.Array  # (n, pixels) uint8
    widths: tuple[int, ...] = dataclasses.field(default=(128, 64, 16), metadata={"static": True})
    batch_size: int = dataclasses.field(default=128, metadata={"static": True})
    train_size: int | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(in, out) of each layer."""
        down = (self.images.shape[-1], *self.widths)
        return list(itertools.pairwise((*down, *reversed(down[:-1]))))

    def sample(self, key: jax.Array) -> Split:
        return Split.draw(key, self.train_size, len(self.images))

    def init(self, key: jax.Array, task: Split) -> Params:
        params = {}
        for i, (layer_key, shape) in enumerate(zip(jax.random.split(key, len(self.shapes)), self.shapes, strict=True)):
            params[f"w{i}"] = jnp.sqrt(2.0) * lecun(layer_key, shape)
            params[f"b{i}"] = jnp.zeros(shape[1])
        return params

    def batch(self, key: jax.Array, task: Split) -> jax.Array:
        return unit(self.images[task.train(key, self.batch_size)])

    def held_out(self, key: jax.Array, task: Split) -> jax.Array:
        return unit(self.images[task.held_out(key, self.batch_size)])

    def loss(self, params: Params, task: Split, batch: jax.Array) -> jax.Array:
        h, last = batch, len(self.shapes) - 1
        for i in range(last + 1):
            h = h @ params[f"w{i}"] + params[f"b{i}"]
            h = h if i in (last, last // 2) else jax.nn.relu(h)  # the code is linear
        return optax.sigmoid_binary_cross_entropy(h, batch).mean()
