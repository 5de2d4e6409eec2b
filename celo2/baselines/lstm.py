"""The LSTM of Celo and VeLO. Rows share its weights and see each other through a maximum."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from celo2.baselines.theta import Linear, Recurrent


class Memory(NamedTuple):
    """What the LSTM carries from step to step, (rows, H) each."""

    hidden: jax.Array
    cell: jax.Array


def init(theta: Recurrent, rows: int) -> Memory:
    """Return room for the state; at the first step the learned state of `theta` takes its place."""
    shape = (rows, theta.hidden.shape[1])
    return Memory(jnp.zeros(shape), jnp.zeros(shape))


def step(theta: Recurrent, memory: Memory, x: jax.Array, first: jax.Array) -> Memory:
    """Return the state after one more step.

    Args:
        theta: learned numbers.
        memory: state of the last step.
        x: features, (rows, features).
        first: whether this is the first step, a scalar.
    """
    hidden = jnp.where(first, theta.hidden, memory.hidden)
    cell = jnp.where(first, theta.cell, memory.cell)
    pooled = jnp.max(jax.nn.relu(linear(theta.pooled, x)), axis=0, keepdims=True)
    z = linear(theta.gates, jnp.concatenate([linear(theta.own, x) + pooled, hidden], axis=1))
    i, g, f, o = jnp.split(z, 4, axis=1)
    cell = jax.nn.sigmoid(f + 1) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
    return Memory(jax.nn.sigmoid(o) * jnp.tanh(cell), cell)


def linear(layer: Linear, x: jax.Array) -> jax.Array:
    """Apply a linear layer to rows."""
    return x @ layer.w + layer.b[None]
