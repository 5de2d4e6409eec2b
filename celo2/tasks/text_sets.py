"""Text as the data of task families: windows of it, of which each next token is predicted."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

BYTES = 256


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TextWindows:
    """Random windows of one text, which is bytes or other tokens; there is one task."""

    text: jax.Array
    """(n,) unsigned integers, to train on."""
    held_out: jax.Array
    """(m,) unsigned integers, never trained on."""
    context: int = dataclasses.field(metadata={"static": True})
    """Tokens that are predicted per window."""
    batch_size: int = dataclasses.field(metadata={"static": True})
    vocabulary: int = dataclasses.field(default=BYTES, metadata={"static": True})
    """Number of different tokens."""

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
