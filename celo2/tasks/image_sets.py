"""Image sets as the data of task families: which set, which part of it to train on, and inputs that are rarely there."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from celo2.data.images import LabelledSet

RAREST, RARE = 1e-3, 0.3
"""Range of the probability with which a rare pixel is shown, log-uniform."""


class ImageTask(NamedTuple):
    """One draw: a set, a split of it, and how often each pixel is shown."""

    index: jax.Array
    start: jax.Array
    train_size: jax.Array
    shown: jax.Array  # (pixels,) probabilities


class Examples(NamedTuple):
    """A batch."""

    images: jax.Array  # (batch, pixels) float32 in [0, 1]
    labels: jax.Array  # (batch,)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ImageSets:
    """Sets of images of one size, each equally likely.

    A task trains on `train_size` images, a window of its set and at most half of it, and holds the others out; None: on
    all, and none is held out. `rare_inputs` is the largest fraction of pixels that a task shows only now and then, as
    borders of larger images are: what their weights see is a distribution of gradients that small images lack.
    """

    images: jax.Array  # (sets, n, pixels), shorter sets padded; uint8 or float32 in [0, 1]
    labels: jax.Array  # (sets, n)
    counts: jax.Array  # (sets,) images that are not padding
    batch_size: int = dataclasses.field(default=64, metadata={"static": True})
    train_size: int | None = dataclasses.field(default=None, metadata={"static": True})
    rare_inputs: float = dataclasses.field(default=0.0, metadata={"static": True})

    @classmethod
    def of(
        cls, sets: Sequence[LabelledSet], batch_size: int = 64, train_size: int | None = None, rare_inputs: float = 0.0
    ) -> ImageSets:
        """These sets on the device."""
        counts = np.array([len(s.labels) for s in sets], np.int32)
        n = counts.max()
        images = np.stack([np.pad(s.images, ((0, n - len(s.images)), (0, 0))) for s in sets])
        labels = np.stack([np.pad(s.labels, (0, n - len(s.labels))) for s in sets])
        arrays = jnp.asarray(images), jnp.asarray(labels, jnp.int32), jnp.asarray(counts)
        return cls(*arrays, batch_size, train_size, rare_inputs)

    @property
    def pixels(self) -> int:
        """Of one image."""
        return self.images.shape[-1]

    def sample(self, key: jax.Array) -> ImageTask:
        set_key, start_key, rare_key = jax.random.split(key, 3)
        index = jax.random.randint(set_key, (), 0, len(self.counts))
        count, shown = self.counts[index], self._shown(rare_key)
        if self.train_size is None:
            return ImageTask(index, jnp.zeros_like(count), count, shown)
        start = jax.random.randint(start_key, (), 0, count)
        return ImageTask(index, start, jnp.minimum(self.train_size, count // 2), shown)

    def batch(self, key: jax.Array, task: ImageTask) -> Examples:
        """Images to train on, with replacement."""
        return self._examples(key, task, jnp.zeros_like(task.train_size), task.train_size)

    def held_out(self, key: jax.Array, task: ImageTask) -> Examples:
        """Images that are not trained on; any where none is held out."""
        rest = self.counts[task.index] - task.train_size
        none = rest == 0
        first, size = jnp.where(none, 0, task.train_size), jnp.where(none, task.train_size, rest)
        return self._examples(key, task, first, size)

    def _examples(self, key: jax.Array, task: ImageTask, first: jax.Array, size: jax.Array) -> Examples:
        """Of the `size` images that begin `first` after the task's start, in the ring that its set is."""
        which_key, rare_key = jax.random.split(key) if self.rare_inputs else (key, key)
        drawn = jax.random.randint(which_key, (self.batch_size,), 0, size)
        index = (task.start + first + drawn) % self.counts[task.index]
        images = unit(self.images[task.index, index])
        if self.rare_inputs:
            images *= jax.random.bernoulli(rare_key, task.shown, images.shape)
        return Examples(images, self.labels[task.index, index])

    def _shown(self, key: jax.Array) -> jax.Array:
        if not self.rare_inputs:
            return jnp.ones(())
        fraction_key, which_key, often_key = jax.random.split(key, 3)
        fraction = jax.random.uniform(fraction_key, maxval=self.rare_inputs)
        rare = jax.random.bernoulli(which_key, fraction, (self.pixels,))
        often = jax.random.uniform(often_key, (self.pixels,), minval=jnp.log(RAREST), maxval=jnp.log(RARE))
        return jnp.where(rare, jnp.exp(often), 1.0)


@dataclasses.dataclass(frozen=True)
class OnImages:
    """What families on image sets share: a task is a draw of `data`. They add a network, `init` and `loss`."""

    data: ImageSets

    def sample(self, key: jax.Array) -> ImageTask:
        return self.data.sample(key)

    def batch(self, key: jax.Array, task: ImageTask) -> Examples:
        return self.data.batch(key, task)

    def held_out(self, key: jax.Array, task: ImageTask) -> Examples:
        return self.data.held_out(key, task)


def unit(images: jax.Array) -> jax.Array:
    """Images as float32 in [0, 1]; bytes are scaled."""
    return images / jnp.float32(255) if images.dtype == jnp.uint8 else images
