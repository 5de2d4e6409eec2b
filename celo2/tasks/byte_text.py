"""A text as the data of task families: predict each next byte of a window."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

BYTES = 256


@dataclasses.dataclass(frozen=True)
class OnBytes:
    """What families on a text share: one task, batches of random windows. They add a network, `init` and `loss`."""

    text: jax.Array  # (n,) uint8
    context: int = dataclasses.field(default=64, metadata={"static": True})
    batch_size: int = dataclasses.field(default=16, metadata={"static": True})

    def sample(self, key: jax.Array) -> jax.Array:
        return jnp.zeros(())

    def batch(self, key: jax.Array, task: jax.Array) -> jax.Array:
        """Windows (batch_size, context + 1)."""
        starts = jax.random.randint(key, (self.batch_size, 1), 0, len(self.text) - self.context - 1)
        return self.text[starts + jnp.arange(self.context + 1)].astype(jnp.int32)

    def held_out(self, key: jax.Array, task: jax.Array) -> jax.Array:
        """Other windows of the same text."""
        return self.batch(key, task)
