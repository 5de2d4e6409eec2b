"""A small convolutional classifier of square images."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import optax

from celo2.data.images import CLASSES
from celo2.tasks.base import Params, lecun
from celo2.tasks.image_sets import Examples, ImageTask, OnImages


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ConvNet(OnImages):
    """3x3 convolutions of stride 2 with ReLU, mean over positions, a linear head; the loss is the
    cross-entropy in nats.

    A kernel is held as the matrix (taps * in, out) that multiplies patches, so an optimizer of matrices sees one, not nine.
    """

    channels: int = dataclasses.field(default=1, metadata={"static": True})
    widths: tuple[int, ...] = dataclasses.field(default=(16, 32, 64), metadata={"static": True})

    def init(self, key: jax.Array, task: ImageTask) -> Params:
        widths = (self.channels, *self.widths)
        *keys, head_key = jax.random.split(key, len(widths))
        params = {"head.w": lecun(head_key, (widths[-1], CLASSES)), "head.b": jnp.zeros(CLASSES)}
        for i, layer_key in enumerate(keys):
            # sqrt(2): the ReLU halves the variance, and without any normalisation three layers of it would fade
            params[f"conv{i}.w"] = jnp.sqrt(2.0) * lecun(layer_key, (9 * widths[i], widths[i + 1]))
            params[f"conv{i}.b"] = jnp.zeros(widths[i + 1])
        return params

    def loss(self, params: Params, task: ImageTask, batch: Examples) -> jax.Array:
        side = math.isqrt(self.data.pixels // self.channels)
        h = 4 * (batch.images.reshape(-1, side, side, self.channels) - 0.5)  # of variance about 1
        for i in range(len(self.widths)):
            h = jax.nn.relu(_patches(h) @ params[f"conv{i}.w"] + params[f"conv{i}.b"])
        logits = h.mean((1, 2)) @ params["head.w"] + params["head.b"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean()


def _patches(x: jax.Array) -> jax.Array:
    """(n, h, w, c) -> (n, h/2, w/2, 9 c): what a 3x3 convolution of stride 2 reads at each place.

    A product with patches, since XLA's convolutions inside a loop are several times slower on a CPU.
    """
    x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    _, height, width, _ = x.shape
    taps = [x[:, i : height - 2 + i : 2, j : width - 2 + j : 2] for i in range(3) for j in range(3)]
    return jnp.concatenate(taps, -1)
