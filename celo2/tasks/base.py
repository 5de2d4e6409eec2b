"""What meta-training and evaluation need of a problem: a `TaskFamily`, one class in one file."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

Params = dict[str, jax.Array]
"""Weights of one network. Two and more axes: matrices (..., in, out); fewer: vectors."""

ModelState = Any
"""What a network carries from step to step without being trained: running statistics of BatchNorm,
the environments of a reinforcement-learning agent. A pytree of arrays; `()` where there is none."""

Metrics = dict[str, jax.Array]
"""Scalars by name. "loss" is always there and is what meta-training minimizes; lower is better."""


class TaskFamily(Protocol):
    """A distribution of tasks.

    Methods are pure, run under `jit`, `vmap` and `grad`, and return arrays of fixed shape. A family
    is a pytree (`jax.tree_util.register_dataclass`) that holds the data, which is therefore one
    argument of the compiled program. A task holds only what distinguishes it from the others of its
    family, so that a thousand tasks side by side share one copy of the data.
    """

    def sample(self, key: jax.Array) -> Any:
        """Draw a task: a pytree of arrays such as an index into the data, or a scale."""
        ...

    def init(self, key: jax.Array, task: Any) -> tuple[Params, ModelState]:
        """Initialize a network for the task."""
        ...

    def loss(
        self, params: Params, state: ModelState, task: Any, key: jax.Array
    ) -> tuple[jax.Array, ModelState]:
        """Compute the training loss, a float32 scalar, and the model state after it.

        The batch is drawn here, from `key`; it may depend on `params` and `state`, as it does in
        on-policy reinforcement learning. The loss is differentiated with respect to `params`.
        """
        ...

    def evaluate(self, params: Params, state: ModelState, task: Any, key: jax.Array) -> Metrics:
        """Compute metrics on data like those trained on but not among them, drawn from `key`."""
        ...


class DataSet(Protocol):
    """Data that supervised families draw batches from; a pytree."""

    def sample(self, key: jax.Array) -> Any:
        """Draw a task: which part of the data, and how it is shown."""
        ...

    def batch(self, key: jax.Array, task: Any) -> Any:
        """Draw a training batch."""
        ...

    def held_out_batch(self, key: jax.Array, task: Any) -> Any:
        """Draw a batch of data that are never trained on."""
        ...


@dataclasses.dataclass(frozen=True)
class Supervised(abc.ABC):
    """A network without model state, trained on batches of a data set.

    Subclasses define the network: `init_params` and `batch_loss`.
    """

    data: Any
    """A `DataSet`."""

    @abc.abstractmethod
    def init_params(self, key: jax.Array) -> Params:
        """Initialize the weights."""

    @abc.abstractmethod
    def batch_loss(self, params: Params, batch: Any) -> jax.Array:
        """Compute the mean loss over a batch."""

    def sample(self, key: jax.Array) -> Any:
        return self.data.sample(key)

    def init(self, key: jax.Array, task: Any) -> tuple[Params, ModelState]:
        return self.init_params(key), ()

    def loss(
        self, params: Params, state: ModelState, task: Any, key: jax.Array
    ) -> tuple[jax.Array, ModelState]:
        return self.batch_loss(params, self.data.batch(key, task)), state

    def evaluate(self, params: Params, state: ModelState, task: Any, key: jax.Array) -> Metrics:
        return {"loss": self.batch_loss(params, self.data.held_out_batch(key, task))}


def lecun(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draw weights (..., in, out) from a truncated normal distribution of scale 1/sqrt(fan_in)."""
    fan_in = np.prod(shape[:-1])
    return jax.random.truncated_normal(key, -2, 2, shape) / jnp.sqrt(jnp.float32(fan_in))
