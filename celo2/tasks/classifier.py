"""What classifiers share: the cross-entropy in nats, and the accuracy beside it."""

from __future__ import annotations

import abc
import dataclasses
import math

import jax
import jax.numpy as jnp
import optax

from celo2.tasks.base import Metrics, ModelState, Params, Supervised
from celo2.tasks.image_sets import Examples


@dataclasses.dataclass(frozen=True)
class Classifier(Supervised):
    """A classifier of images without model state; subclasses define `logits`."""

    @abc.abstractmethod
    def logits(self, params: Params, images: jax.Array) -> jax.Array:
        """Compute (batch, classes) from flat images (batch, pixels) in [0, 1]."""

    def batch_loss(self, params: Params, batch: Examples) -> jax.Array:
        return scores(self.logits(params, batch.images), batch.labels)["loss"]

    def evaluate(
        self, params: Params, state: ModelState, task: jax.Array, key: jax.Array
    ) -> Metrics:
        batch = self.data.held_out_batch(key, task)
        return scores(self.logits(params, batch.images), batch.labels)


def scores(logits: jax.Array, labels: jax.Array) -> Metrics:
    """Return the mean cross-entropy in nats and the accuracy."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return {"loss": losses.mean(), "accuracy": jnp.mean(logits.argmax(-1) == labels)}


def as_squares(images: jax.Array, channels: int) -> jax.Array:
    """Center flat images, scale them to a variance of about 1: (n, side, side, channels)."""
    side = math.isqrt(images.shape[-1] // channels)
    return 4 * (images.reshape(-1, side, side, channels) - 0.5)
