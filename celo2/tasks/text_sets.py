"""Text as the data of task families: windows of bytes, of which each next byte is predicted."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

BYTES = 256


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ByteText:
    """Random windows of one text; there is one task."""

    text: jax.Array
    """(n,) uint8, to train on."""
    held_out: jax.Array
    """(m,) uint8, never trained on."""
    context: int = dataclasses.field(metadata={"static": True})
    """Bytes that are predicted per window."""
    batch_size: int = dataclasses.field(metadata={"static": True})

    def sample(self, key: jax.Array) -> jax.Array:
        """Return the one task."""
        return jnp.zeros(())

    def batch(self, key: jax.Array, task: jax.Array) -> jax.Array:
        """Draw windows (batch_size, context + 1), int32, to train on."""
        return self._windows(key, self.text)

    def held_out_batch(self, key: jax.Array, task: jax.Array) -> jax.Array:
        """Draw windows (batch_size, context + 1), int32, of the held-out text."""
        return self._windows(key, self.held_out)

    def _windows(self, key: jax.Array, text: jax.Array) -> jax.Array:
        starts = jax.random.randint(key, (self.batch_size, 1), 0, len(text) - self.context - 1)
        return text[starts + jnp.arange(self.context + 1)].astype(jnp.int32)
