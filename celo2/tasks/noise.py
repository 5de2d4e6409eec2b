"""The random numbers of generative models as part of the data, so that losses stay pure."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from celo2.tasks.image_sets import Examples, ImageSets, ImageTask


class NoisyExamples(NamedTuple):
    """A batch of images with what a generative model draws for them."""

    images: jax.Array
    """(batch, pixels) float32 in [0, 1]."""
    noise: jax.Array
    """(batch, width) from a standard normal distribution."""
    time: jax.Array
    """(batch,) evenly spread over [0, 1] at a random offset, which makes losses vary least."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WithNoise:
    """Image sets whose batches come with noise of a given width, and with times."""

    sets: ImageSets
    width: int = dataclasses.field(metadata={"static": True})

    @property
    def pixels(self) -> int:
        """Number of pixels of one image, times its channels."""
        return self.sets.pixels

    def sample(self, key: jax.Array) -> ImageTask:
        """Draw a set."""
        return self.sets.sample(key)

    def batch(self, key: jax.Array, task: ImageTask) -> NoisyExamples:
        """Draw images to train on."""
        batch_key, noise_key = jax.random.split(key)
        return self._noisy(noise_key, self.sets.batch(batch_key, task))

    def held_out_batch(self, key: jax.Array, task: ImageTask) -> NoisyExamples:
        """Draw images that are never trained on."""
        batch_key, noise_key = jax.random.split(key)
        return self._noisy(noise_key, self.sets.held_out_batch(batch_key, task))

    def _noisy(self, key: jax.Array, batch: Examples) -> NoisyExamples:
        noise_key, time_key = jax.random.split(key)
        n = len(batch.images)
        noise = jax.random.normal(noise_key, (n, self.width))
        return NoisyExamples(
            batch.images, noise, (jnp.arange(n) + jax.random.uniform(time_key)) / n
        )
