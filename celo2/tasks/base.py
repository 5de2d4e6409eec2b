"""What meta-training needs of a distribution of problems. A new family is one class in one file."""

from __future__ import annotations

from typing import Any, Protocol

import jax

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

    def loss(self, params: Params, task: Any, batch: Any) -> jax.Array:
        """Training loss on the batch, a float32 scalar."""
        ...
