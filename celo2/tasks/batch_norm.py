"""A convolutional classifier with BatchNorm, whose running statistics are model state."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from celo2.tasks.base import Metrics, ModelState, Params, lecun
from celo2.tasks.classifier import as_squares, scores
from celo2.tasks.image_sets import Examples
from celo2.tasks.layers import linear, linear_params, norm_params, patches, scale_and_shift

DECAY = 0.9
"""Of the running statistics, per step."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BatchNormNet:
    """3x3 convolutions of stride 2, BatchNorm, ReLU; mean pooling and a linear head.

    Training uses the statistics of the batch, evaluation the running ones.
    """

    data: Any
    """A `DataSet` of images."""
    channels: int = dataclasses.field(default=3, metadata={"static": True})
    widths: tuple[int, ...] = dataclasses.field(default=(32, 64, 96), metadata={"static": True})

    def sample(self, key: jax.Array) -> Any:
        return self.data.sample(key)

    def init(self, key: jax.Array, task: Any) -> tuple[Params, ModelState]:
        *keys, head_key = jax.random.split(key, len(self.widths) + 1)
        params, state, fan_in = {}, {}, self.channels
        for i, (layer_key, width) in enumerate(zip(keys, self.widths, strict=True)):
            params[f"conv{i}.w"] = lecun(layer_key, (9 * fan_in, width))
            params |= norm_params(f"norm{i}", width)
            state[f"norm{i}"] = jnp.stack([jnp.zeros(width), jnp.ones(width)])
            fan_in = width
        return params | linear_params(head_key, "head", (fan_in, self.data.classes)), state

    def loss(
        self, params: Params, state: ModelState, task: Any, key: jax.Array
    ) -> tuple[jax.Array, ModelState]:
        batch = self.data.batch(key, task)
        logits, seen = self.logits(params, None, batch.images)
        new = {}
        for name, statistics in seen.items():
            new[name] = DECAY * state[name] + (1 - DECAY) * jax.lax.stop_gradient(statistics)
        return scores(logits, batch.labels)["loss"], new

    def evaluate(self, params: Params, state: ModelState, task: Any, key: jax.Array) -> Metrics:
        batch: Examples = self.data.held_out_batch(key, task)
        logits, _ = self.logits(params, state, batch.images)
        return scores(logits, batch.labels)

    def logits(
        self, params: Params, state: ModelState | None, images: jax.Array
    ) -> tuple[jax.Array, ModelState]:
        """Compute (batch, classes), normalized by `state` or, where it is None, by the batch.

        Returns:
            The logits, and the mean and variance (2, width) that each layer was normalized by.
        """
        h, used = as_squares(images, self.channels), {}
        for i in range(len(self.widths)):
            h, name = patches(h, stride=2) @ params[f"conv{i}.w"], f"norm{i}"
            if state is None:
                used[name] = jnp.stack([h.mean((0, 1, 2)), h.var((0, 1, 2))])
            else:
                used[name] = state[name]
            mean, variance = used[name]
            normalized = (h - mean) * jax.lax.rsqrt(variance + 1e-5)
            h = jax.nn.relu(scale_and_shift(params, name, normalized))
        return linear(params, "head", h.mean((1, 2))), used
