"""What meta-training needs of a distribution of problems. A new family is one class in one file."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

Params = dict[str, jax.Array]
"""Weights of one network. Two and more axes: matrices (..., in, out); fewer: vectors."""


class TaskFamily(Protocol):
    """A distribution of tasks. Methods are pure, run under `jit`, `vmap` and `grad`, and give arrays of fixed shape.

    A family is a pytree (`jax.tree_util.register_dataclass`), so that its data is an argument of the compiled program.
    """

    def sample(self, key: jax.Array) -> Any:
        """One task: a pytree of arrays that tells it from the others of the family (which data, which scale)."""
        ...

    def init(self, key: jax.Array, task: Any) -> Params:
        """Fresh weights of a network for the task."""
        ...

    def batch(self, key: jax.Array, task: Any) -> Any:
        """One training batch."""
        ...

    def held_out(self, key: jax.Array, task: Any) -> Any:
        """One batch that is like those trained on but not among them, for a meta-loss that asks for it."""
        ...

    def loss(self, params: Params, task: Any, batch: Any) -> jax.Array:
        """Loss on the batch, a float32 scalar."""
        ...


class Split(NamedTuple):
    """Which of `count` examples in a ring a task trains on: `size` from `start` on; the others are held out."""

    start: jax.Array
    size: jax.Array
    count: jax.Array

    @classmethod
    def draw(cls, key: jax.Array, size: int | None, count: Any) -> Split:
        """A random window of `size`; None: all are trained on, and none is held out."""
        count = jnp.asarray(count, jnp.int32)
        if size is None:
            return cls(jnp.zeros_like(count), count, count)
        return cls(jax.random.randint(key, (), 0, count), jnp.minimum(size, count // 2), count)

    def train(self, key: jax.Array, batch: int) -> jax.Array:
        """Indices to train on, with replacement."""
        return (self.start + jax.random.randint(key, (batch,), 0, self.size)) % self.count

    def held_out(self, key: jax.Array, batch: int) -> jax.Array:
        """Indices not trained on; of all where none is held out."""
        rest = self.count - self.size
        first = jnp.where(rest > 0, self.size, 0)
        return (self.start + first + jax.random.randint(key, (batch,), 0, jnp.where(rest > 0, rest, self.count))) % self.count


def unit(images: jax.Array) -> jax.Array:
    """Images as float32 in [0, 1]; bytes are scaled."""
    return images / jnp.float32(255) if images.dtype == jnp.uint8 else images


def lecun(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Truncated normal of scale 1/sqrt(fan_in), for weights (..., in, out)."""
    fan_in = np.prod(shape[:-1])
    return jax.random.truncated_normal(key, -2, 2, shape) / jnp.sqrt(jnp.float32(fan_in))
