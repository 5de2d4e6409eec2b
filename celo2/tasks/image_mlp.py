"""The tasks Celo2 is meta-trained on: an MLP 64-32-10 on 8x8 images, exactly as published."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from celo2.tasks.base import Params
from celo2.tasks.images import CLASSES, SIZE, ImageSet

HIDDEN = 32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ImageMLP:
    """Softmax regression through one hidden layer of 32 ReLU units; a task is the index of an image set."""

    images: jax.Array  # (sets, n, 64), shorter sets padded
    labels: jax.Array  # (sets, n)
    counts: jax.Array  # (sets,) images that are not padding
    batch_size: int = dataclasses.field(default=64, metadata={"static": True})

    @classmethod
    def of(cls, sets: Sequence[ImageSet], batch_size: int = 64) -> ImageMLP:
        """The family over these image sets, each equally likely."""
        counts = np.array([len(s.labels) for s in sets], np.int32)
        n = counts.max()
        images = np.stack([np.pad(s.images, ((0, n - len(s.images)), (0, 0))) for s in sets])
        labels = np.stack([np.pad(s.labels, (0, n - len(s.labels))) for s in sets])
        return cls(jnp.asarray(images), jnp.asarray(labels), jnp.asarray(counts), batch_size)

    def sample(self, key: jax.Array) -> jax.Array:
        return jax.random.randint(key, (), 0, len(self.counts))

    def init(self, key: jax.Array, task: jax.Array) -> Params:
        first, second = jax.random.split(key)
        return {
            "w0": _lecun(first, (SIZE * SIZE, HIDDEN)),
            "b0": jnp.zeros(HIDDEN),
            "w1": _lecun(second, (HIDDEN, CLASSES)),
            "b1": jnp.zeros(CLASSES),
        }

    def batch(self, key: jax.Array, task: jax.Array) -> tuple[jax.Array, jax.Array]:
        index = jax.random.randint(key, (self.batch_size,), 0, self.counts[task])
        return self.images[task, index], self.labels[task, index]

    def loss(self, params: Params, task: jax.Array, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        images, labels = batch
        h = jax.nn.relu(images @ params["w0"] + params["b0"])
        logits = h @ params["w1"] + params["b1"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _lecun(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Truncated normal of scale 1/sqrt(fan_in)."""
    return jax.random.truncated_normal(key, -2, 2, shape) / jnp.sqrt(shape[0])
