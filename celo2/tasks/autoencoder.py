"""A deep autoencoder of images."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import optax

from celo2.tasks.base import Params, Supervised, lecun
from celo2.tasks.image_sets import Examples


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Autoencoder(Supervised):
    """ReLU layers down to a narrow linear code and up again.

    The loss is the binary cross-entropy per pixel, in nats.
    """

    widths: tuple[int, ...] = dataclasses.field(default=(128, 64, 16), metadata={"static": True})

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(in, out) of each layer."""
        down = (self.data.pixels, *self.widths)
        up = tuple(reversed(down[:-1]))
        return list(itertools.pairwise(down + up))

    def init_params(self, key: jax.Array) -> Params:
        params = {}
        keys = jax.random.split(key, len(self.shapes))
        for i, (layer_key, shape) in enumerate(zip(keys, self.shapes, strict=True)):
            params[f"w{i}"] = jnp.sqrt(2.0) * lecun(layer_key, shape)
            params[f"b{i}"] = jnp.zeros(shape[1])
        return params

    def batch_loss(self, params: Params, batch: Examples) -> jax.Array:
        h, last = batch.images, len(self.shapes) - 1
        for i in range(last + 1):
            h = h @ params[f"w{i}"] + params[f"b{i}"]
            h = h if i in (last, last // 2) else jax.nn.relu(h)  # the code is linear
        return optax.sigmoid_binary_cross_entropy(h, batch.images).mean()
