"""Image sets as the data of task families: which set, which part of it, and rare inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from celo2.data.images import LabeledSet

RAREST, RARE = 1e-3, 0.3
"""Range of the probability with which a rare pixel is shown, log-uniform."""


class ImageTask(NamedTuple):
    """One draw: a set, the window of it to train on, and how often each pixel is shown."""

    index: jax.Array
    start: jax.Array
    train_size: jax.Array
    shown: jax.Array
    """(pixels,) probabilities, or () where all pixels are always shown."""


class Examples(NamedTuple):
    """A batch."""

    images: jax.Array
    """(batch, pixels) float32 in [0, 1]."""
    labels: jax.Array
    """(batch,)"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stack:
    """Labeled sets of images of one size as arrays; shorter sets are padded."""

    images: jax.Array
    """(sets, n, pixels), uint8 or float32 in [0, 1]."""
    labels: jax.Array
    """(sets, n)"""
    counts: jax.Array
    """(sets,) images that are not padding."""

    @classmethod
    def of(cls, sets: Sequence[LabeledSet]) -> Stack:
        """Put the sets on the device."""
        counts = np.array([len(s.labels) for s in sets], np.int32)
        shape = len(sets), int(counts.max())
        dtype = np.result_type(*[s.images.dtype for s in sets])
        images = np.zeros((*shape, sets[0].images.shape[1]), dtype)
        labels = np.zeros(shape, np.int32)
        for i, (each, count) in enumerate(zip(sets, counts, strict=True)):
            images[i, :count], labels[i, :count] = each.images, each.labels
        return cls(jnp.asarray(images), jnp.asarray(labels, jnp.int32), jnp.asarray(counts))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ImageSets:
    """Sets of images of one size, each equally likely.

    What is held out is given as sets of its own, or cut from each set by `train_size`, or, with
    neither, drawn from the images trained on.
    """

    train: Stack
    held_out: Stack | None
    """Images never trained on, of the same sets in the same order."""
    classes: int = dataclasses.field(metadata={"static": True})
    """Labels are 0..classes - 1."""
    batch_size: int = dataclasses.field(default=64, metadata={"static": True})
    train_size: int | None = dataclasses.field(default=None, metadata={"static": True})
    """Images a task trains on, a window of its set and at most half of it; None: all of them."""
    rare_inputs: float = dataclasses.field(default=0.0, metadata={"static": True})
    """Largest fraction of pixels that a task shows only now and then, as the borders of larger
    images are: weights of such inputs see gradients that small images lack."""

    @classmethod
    def of(
        cls,
        sets: Sequence[LabeledSet],
        held_out: Sequence[LabeledSet] = (),
        batch_size: int = 64,
        train_size: int | None = None,
        rare_inputs: float = 0.0,
    ) -> ImageSets:
        """Put the sets on the device, and those to hold out, if they are sets of their own."""
        test = Stack.of(held_out) if held_out else None
        classes = max(s.classes for s in sets)
        return cls(Stack.of(sets), test, classes, batch_size, train_size, rare_inputs)

    @property
    def pixels(self) -> int:
        """Number of pixels of one image, times its channels."""
        return self.train.images.shape[-1]

    def sample(self, key: jax.Array) -> ImageTask:
        """Draw a set, a window of it and the pixels that are rare."""
        set_key, start_key, rare_key = jax.random.split(key, 3)
        index = jax.random.randint(set_key, (), 0, len(self.train.counts))
        count, shown = self.train.counts[index], self._shown(rare_key)
        if self.train_size is None:
            return ImageTask(index, jnp.zeros_like(count), count, shown)
        start = jax.random.randint(start_key, (), 0, count)
        return ImageTask(index, start, jnp.minimum(self.train_size, count // 2), shown)

    def batch(self, key: jax.Array, task: ImageTask) -> Examples:
        """Draw images to train on, with replacement."""
        return self._examples(key, task, self.train, task.start, task.train_size)

    def held_out_batch(self, key: jax.Array, task: ImageTask) -> Examples:
        """Draw images that are not trained on; any images where none are held out."""
        if self.held_out is not None:
            size = self.held_out.counts[task.index]
            return self._examples(key, task, self.held_out, jnp.zeros_like(size), size)
        rest = self.train.counts[task.index] - task.train_size
        none = rest == 0
        first, size = jnp.where(none, 0, task.train_size), jnp.where(none, task.train_size, rest)
        return self._examples(key, task, self.train, task.start + first, size)

    def _examples(
        self, key: jax.Array, task: ImageTask, stack: Stack, first: jax.Array, size: jax.Array
    ) -> Examples:
        """Draw from `size` images, beginning at `first`, of the ring that the task's set is."""
        which_key, rare_key = jax.random.split(key) if self.rare_inputs else (key, key)
        drawn = jax.random.randint(which_key, (self.batch_size,), 0, size)
        index = (first + drawn) % stack.counts[task.index]
        images = _unit(stack.images[task.index, index])
        if self.rare_inputs:
            images *= jax.random.bernoulli(rare_key, task.shown, images.shape)
        return Examples(images, stack.labels[task.index, index])

    def _shown(self, key: jax.Array) -> jax.Array:
        if not self.rare_inputs:
            return jnp.ones(())
        fraction_key, which_key, often_key = jax.random.split(key, 3)
        fraction = jax.random.uniform(fraction_key, maxval=self.rare_inputs)
        rare = jax.random.bernoulli(which_key, fraction, (self.pixels,))
        low, high = jnp.log(RAREST), jnp.log(RARE)
        often = jax.random.uniform(often_key, (self.pixels,), minval=low, maxval=high)
        return jnp.where(rare, jnp.exp(often), 1.0)


def _unit(images: jax.Array) -> jax.Array:
    """Convert images to float32 in [0, 1]; bytes are scaled."""
    return images / jnp.float32(255) if images.dtype == jnp.uint8 else images
