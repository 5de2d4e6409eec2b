"""A deep autoencoder of images."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import optax

from celo2.tasks.base import Params, lecun
from celo2.tasks.image_sets import Examples, ImageTask, OnImages


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Autoencoder(OnImages):
    """ReLU layers down to a narrow code and up again; the loss is the binary cross-entropy of a pixel, in nats."""

    widths: tuple[int, ...] = dataclasses.field(default=(128, 64, 16), metadata={"static": True})

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(in, out) of each layer."""
        down = (self.data.pixels, *self.widths)
        return list(itertools.pairwise((*down, *reversed(down[:-1]))))

    def init(self, key: jax.Array, task: ImageTask) -> Params:
        params = {}
        for i, (layer_key, shape) in enumerate(zip(jax.random.split(key, len(self.shapes)), self.shapes, strict=True)):
            params[f"w{i}"] = jnp.sqrt(2.0) * lecun(layer_key, shape)
            params[f"b{i}"] = jnp.zeros(shape[1])
        return params

    def loss(self, params: Params, task: ImageTask, batch: Examples) -> jax.Array:
        h, last = batch.images, len(self.shapes) - 1
        for i in range(last + 1):
            h = h @ params[f"w{i}"] + params[f"b{i}"]
            h = h if i in (last, last // 2) else jax.nn.relu(h)  # the code is linear
        return optax.sigmoid_binary_cross_entropy(h, batch.images).mean()
