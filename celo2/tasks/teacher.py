"""Regression on what a random network computes; its data do not run out."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from celo2.tasks.base import Params, Supervised
from celo2.tasks.layers import linear, linear_params
from celo2.tasks.tables import Rows

HIDDEN = 16
"""Hidden units of a teacher."""
NOISE = (0.01, 1.0)
"""Range of the standard deviation of a task's noise, log-uniform; that of outputs is about 0.7."""


class Teacher(NamedTuple):
    """One task: a network of one hidden layer, and the standard deviation of the noise."""

    first: jax.Array
    """(inputs, hidden)"""
    bias: jax.Array
    """(hidden,)"""
    second: jax.Array
    """(hidden, 1)"""
    noise: jax.Array
    """0-d"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Teachers:
    """Inputs from a normal distribution with the outputs of a random network, drawn per batch."""

    inputs: int = dataclasses.field(default=8, metadata={"static": True})
    batch_size: int = dataclasses.field(default=128, metadata={"static": True})

    def sample(self, key: jax.Array) -> Teacher:
        """Draw a network and the standard deviation of the noise."""
        first_key, bias_key, second_key, noise_key = jax.random.split(key, 4)
        first = jax.random.normal(first_key, (self.inputs, HIDDEN)) * 2 / self.inputs**0.5
        bias = jax.random.normal(bias_key, (HIDDEN,))
        second = jax.random.normal(second_key, (HIDDEN, 1)) / HIDDEN**0.5
        low, high = jnp.log(jnp.array(NOISE))
        noise = jnp.exp(jax.random.uniform(noise_key, (), minval=low, maxval=high))
        return Teacher(first, bias, second, noise)

    def batch(self, key: jax.Array, task: Teacher) -> Rows:
        """Draw a batch to train on."""
        return self._drawn(jax.random.fold_in(key, 0), task)

    def held_out_batch(self, key: jax.Array, task: Teacher) -> Rows:
        """Draw a batch from another stream of random numbers."""
        return self._drawn(jax.random.fold_in(key, 1), task)

    def _drawn(self, key: jax.Array, task: Teacher) -> Rows:
        input_key, noise_key = jax.random.split(key)
        x = jax.random.normal(input_key, (self.batch_size, self.inputs))
        y = jnp.tanh(x @ task.first + task.bias) @ task.second
        return Rows(x, y + task.noise * jax.random.normal(noise_key, y.shape))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Student(Supervised):
    """ReLU layers that learn a teacher; mean squared error."""

    hidden: tuple[int, ...] = dataclasses.field(default=(64, 64), metadata={"static": True})

    def init_params(self, key: jax.Array) -> Params:
        first_key, *keys, head_key = jax.random.split(key, len(self.hidden) + 1)
        params = linear_params(first_key, "first", (self.data.inputs, self.hidden[0]))
        for i, layer_key in enumerate(keys):
            params |= linear_params(layer_key, f"layers.{i}", self.hidden[i : i + 2])
        return params | linear_params(head_key, "head", (self.hidden[-1], 1))

    def batch_loss(self, params: Params, batch: Rows) -> jax.Array:
        h = jax.nn.relu(linear(params, "first", batch.features))
        for i in range(len(self.hidden) - 1):
            h = jax.nn.relu(linear(params, f"layers.{i}", h))
        return jnp.square(linear(params, "head", h) - batch.target).mean()
