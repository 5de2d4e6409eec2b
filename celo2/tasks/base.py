"""What meta-training needs of a distribution of problems. A new family is one class in one file."""

from __future__ import annotations

from typing import Any, Protocol

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


def lecun(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Truncated normal of scale 1/sqrt(fan_in), for weights (..., in, out)."""
    fan_in = np.prod(shape[:-1])
    return jax.random.truncated_normal(key, -2, 2, shape) / jnp.sqrt(jnp.float32(fan_in))
