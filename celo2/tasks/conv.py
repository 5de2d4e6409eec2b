"""A small convolutional classifier of square images."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import optax

from celo2.tasks.base import Params, Supervised, lecun
from celo2.tasks.image_sets import Examples
from celo2.tasks.layers import patches


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ConvNet(Supervised):
    """3x3 convolutions of stride 2 with ReLU, mean pooling, and a linear head.

    The loss is the cross-entropy in nats. A kernel is stored as the matrix (taps * in, out) that
    multiplies patches, so optimizers treat it as one matrix.
    """

    channels: int = dataclasses.field(default=1, metadata={"static": True})
    widths: tuple[int, ...] = dataclasses.field(default=(16, 32, 64), metadata={"static": True})

    def init_params(self, key: jax.Array) -> Params:
        widths = (self.channels, *self.widths)
        *keys, head_key = jax.random.split(key, len(widths))
        classes = self.data.classes
        params = {"head.w": lecun(head_key, (widths[-1], classes)), "head.b": jnp.zeros(classes)}
        for i, layer_key in enumerate(keys):
            # ReLU halves the variance, and there is no normalization layer to restore it.
            kernel = lecun(layer_key, (9 * widths[i], widths[i + 1]))
            params[f"conv{i}.w"] = jnp.sqrt(2.0) * kernel
            params[f"conv{i}.b"] = jnp.zeros(widths[i + 1])
        return params

    def batch_loss(self, params: Params, batch: Examples) -> jax.Array:
        side = math.isqrt(self.data.pixels // self.channels)
        images = batch.images.reshape(-1, side, side, self.channels)
        h = 4 * (images - 0.5)  # of variance about 1
        for i in range(len(self.widths)):
            h = jax.nn.relu(patches(h, stride=2) @ params[f"conv{i}.w"] + params[f"conv{i}.b"])
        logits = h.mean((1, 2)) @ params["head.w"] + params["head.b"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean()
