"""MLP classifiers; with 8x8 pixels and 32 hidden units, the published meta-training tasks."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax

from celo2.tasks.base import Params, Supervised, lecun
from celo2.tasks.image_sets import Examples


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ImageMLP(Supervised):
    """ReLU layers and a softmax over the classes; the loss is the cross-entropy in nats."""

    hidden: tuple[int, ...] = dataclasses.field(default=(32,), metadata={"static": True})

    def init_params(self, key: jax.Array) -> Params:
        widths = (self.data.pixels, *self.hidden, self.data.classes)
        params = {}
        for i, layer_key in enumerate(jax.random.split(key, len(widths) - 1)):
            params[f"w{i}"] = lecun(layer_key, widths[i : i + 2])
            params[f"b{i}"] = jnp.zeros(widths[i + 1])
        return params

    def batch_loss(self, params: Params, batch: Examples) -> jax.Array:
        h, last = batch.images, len(self.hidden)
        for i in range(last):
            h = jax.nn.relu(h @ params[f"w{i}"] + params[f"b{i}"])
        logits = h @ params[f"w{last}"] + params[f"b{last}"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean()
