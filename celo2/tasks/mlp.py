"""MLPs on labelled images: at 8x8 pixels and 32 hidden units the tasks that Celo2 is meta-trained on, as published."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from celo2.data.images import CLASSES, LabelledSet
from celo2.tasks.base import Params, Split, lecun, unit


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ImageMLP:
    """ReLU classifiers; a task is the index of an image set and a split of it. All sets have images of the same size."""

    images: jax.Array  # (sets, n, pixels), shorter sets padded; uint8 or float32 in [0, 1]
    labels: jax.Array  # (sets, n)
    counts: jax.Array  # (sets,) images that are not padding
    hidden: tuple[int, ...] = dataclasses.field(default=(32,), metadata={"static": True})
    batch_size: int = dataclasses.field(default=64, metadata={"static": True})
    train_size: int | None = dataclasses.field(default=None, metadata={"static": True})

    @classmethod
    def of(
        cls,
        sets: Sequence[LabelledSet],
        hidden: tuple[int, ...] = (32,),
        batch_size: int = 64,
        train_size: int | None = None,
    ) -> ImageMLP:
        """The family over these image sets, each equally likely."""
        counts = np.array([len(s.labels) for s in sets], np.int32)
        n = counts.max()
        images = np.stack([np.pad(s.images, ((0, n - len(s.images)), (0, 0))) for s in sets])
        labels = np.stack([np.pad(s.labels, (0, n - len(s.labels))) for s in sets])
        return cls(jnp.asarray(images), jnp.asarray(labels, jnp.int32), jnp.asarray(counts), hidden, batch_size, train_size)

    def sample(self, key: jax.Array) -> tuple[jax.Array, Split]:
        set_key, split_key = jax.random.split(key)
        index = jax.random.randint(set_key, (), 0, len(self.counts))
        return index, Split.draw(split_key, self.train_size, self.counts[index])

    def init(self, key: jax.Array, task: Any) -> Params:
        widths = (self.images.shape[-1], *self.hidden, CLASSES)
        params = {}
        for i, layer_key in enumerate(jax.random.split(key, len(widths) - 1)):
            params[f"w{i}"] = lecun(layer_key, widths[i : i + 2])
            params[f"b{i}"] = jnp.zeros(widths[i + 1])
        return params

    def batch(self, key: jax.Array, task: tuple[jax.Array, Split]) -> tuple[jax.Array, jax.Array]:
        return self._examples(task, task[1].train(key, self.batch_size))

    def held_out(self, key: jax.Array, task: tuple[jax.Array, Split]) -> tuple[jax.Array, jax.Array]:
        return self._examples(task, task[1].held_out(key, self.batch_size))

    def _examples(self, task: tuple[jax.Array, Split], index: jax.Array) -> tuple[jax.Array, jax.Array]:
        return unit(self.images[task[0], index]), self.labels[task[0], index]

    def loss(self, params: Params, task: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        h, labels = batch
        last = len(self.hidden)
        for i in range(last):
            h = jax.nn.relu(h @ params[f"w{i}"] + params[f"b{i}"])
        logits = h @ params[f"w{last}"] + params[f"b{last}"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
