"""MLPs that classify images: at 8x8 pixels and 32 hidden units the tasks that Celo2 is meta-trained on, as published."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax

from celo2.data.images import CLASSES
from celo2.tasks.base import Params, lecun
from celo2.tasks.image_sets import Examples, ImageTask, OnImages


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ImageMLP(OnImages):
    """ReLU layers and a softmax over ten classes; the loss is the cross-entropy in nats."""

    hidden: tuple[int, ...] = dataclasses.field(default=(32,), metadata={"static": True})

    def init(self, key: jax.Array, task: ImageTask) -> Params:
        widths = (self.data.pixels, *self.hidden, CLASSES)
        params = {}
        for i, layer_key in enumerate(jax.random.split(key, len(widths) - 1)):
            params[f"w{i}"] = lecun(layer_key, widths[i : i + 2])
            params[f"b{i}"] = jnp.zeros(widths[i + 1])
        return params

    def loss(self, params: Params, task: ImageTask, batch: Examples) -> jax.Array:
        h, last = batch.images, len(self.hidden)
        for i in range(last):
            h = jax.nn.relu(h @ params[f"w{i}"] + params[f"b{i}"])
        logits = h @ params[f"w{last}"] + params[f"b{last}"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean()
