"""Augmentation of images as part of the data: random crops and mirror images."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from celo2.tasks.image_sets import Examples, ImageSets, ImageTask

MARGIN = 4
"""Pixels by which an image may be shifted in each direction; what is uncovered is black."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Augmented:
    """Image sets of which training batches alone are shifted and mirrored at random."""

    sets: ImageSets
    channels: int = dataclasses.field(default=3, metadata={"static": True})

    @property
    def pixels(self) -> int:
        """Number of pixels of one image, times its channels."""
        return self.sets.pixels

    @property
    def classes(self) -> int:
        """Labels are 0..classes - 1."""
        return self.sets.classes

    def sample(self, key: jax.Array) -> ImageTask:
        """Draw a set."""
        return self.sets.sample(key)

    def batch(self, key: jax.Array, task: ImageTask) -> Examples:
        """Draw images to train on and change each of them."""
        batch_key, crop_key, flip_key = jax.random.split(key, 3)
        batch = self.sets.batch(batch_key, task)
        side = math.isqrt(self.pixels // self.channels)
        images = batch.images.reshape(-1, side, side, self.channels)
        flips = jax.random.bernoulli(flip_key, shape=(len(images), 1, 1, 1))
        images = jnp.where(flips, images[:, :, ::-1], images)
        return batch._replace(images=_shifted(crop_key, images).reshape(batch.images.shape))

    def held_out_batch(self, key: jax.Array, task: ImageTask) -> Examples:
        """Draw images that are never trained on, as they are."""
        return self.sets.held_out_batch(key, task)


def _shifted(key: jax.Array, images: jax.Array) -> jax.Array:
    """Shift each of the images (n, side, side, channels) by up to MARGIN pixels."""
    padded = jnp.pad(images, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)))
    starts = jax.random.randint(key, (len(images), 2), 0, 2 * MARGIN + 1)

    def crop(image: jax.Array, start: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (start[0], start[1], 0), images.shape[1:])

    return jax.vmap(crop)(padded, starts)
