"""The step that Celo and VeLO propose for each entry of one tensor: 30 channels, a small MLP."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp

from celo2.baselines.accumulators import Accumulators, matrix_axes
from celo2.baselines.theta import CHANNELS, Mlp

FEATURE_CLIP = 0.1
SECOND_MOMENT_EPSILON = 1e-6
FACTORED_EPSILON = 1e-9
ROOT_EPSILON = 1e-8
NORMALIZE_EPSILON = 1e-5
SIZE_EPSILON = 1e-9
STEP_SCALE = 0.001
"""Scales both the step and the exponent of its magnitude."""


def proposed_step(mlp: Mlp, accumulators: Accumulators, g: jax.Array, p: jax.Array) -> jax.Array:
    """Return the step of one tensor, to be multiplied by a step size and subtracted.

    Args:
        mlp: weights without a leading axis.
        accumulators: after `g`.
        g: clamped gradient.
        p: the tensor before the step; steps are proportional to its root mean square.
    """
    direction, magnitude = _mlp(mlp, features(accumulators, g, p))
    size = jnp.sqrt(jnp.mean(p * p) + SIZE_EPSILON)
    return STEP_SCALE * size * jnp.exp(STEP_SCALE * magnitude) * direction


def features(accumulators: Accumulators, g: jax.Array, p: jax.Array) -> list[jax.Array]:
    """Return the fourteen features, (channels, *shape) with length 1 where one is constant."""
    m, v = accumulators.momentum, accumulators.second_moment[None]
    g, p = g[None], p[None]
    s = jax.lax.rsqrt(v + SECOND_MOMENT_EPSILON)
    if len(accumulators.factored) == 1:
        (d,) = accumulators.factored
        rows = columns = d
        scaled_g = g * _root(d + FACTORED_EPSILON)
        scaled_m = m * jax.lax.rsqrt(d)  # no floor is needed: after one step d is at least 1e-33
    else:
        rows, columns = accumulators.factored
        _, d1 = matrix_axes(p.shape[1:])
        f = _preconditioner(rows, columns, d1)
        scaled_g, scaled_m = g * f, m * f
    root_rows, root_columns = (jax.lax.rsqrt(x + ROOT_EPSILON) for x in (rows, columns))
    clipped = jnp.clip(g, -FEATURE_CLIP, FEATURE_CLIP)
    return [
        g,
        clipped,
        p,
        m,
        v,
        m * s,
        s,
        scaled_g,
        g * s,
        rows,
        columns,
        root_rows,
        root_columns,
        scaled_m,
    ]


def _preconditioner(rows: jax.Array, columns: jax.Array, d1: int) -> jax.Array:
    """Return F_i, (3, *shape): the factored 1/sqrt of the second moment, as in Adafactor."""
    relative = rows / (jnp.mean(rows, axis=1 + d1, keepdims=True) + FACTORED_EPSILON)
    return _root(relative) * _root(columns)


def _root(x: jax.Array) -> jax.Array:
    return jax.lax.rsqrt(jnp.maximum(x, FACTORED_EPSILON))


def _mlp(mlp: Mlp, inputs: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Return direction and magnitude of each entry."""
    ends = list(itertools.accumulate(CHANNELS))
    axes = (1,) * (inputs[0].ndim - 1)

    def column(b: jax.Array) -> jax.Array:
        return b.reshape(-1, *axes)

    # Each channel is divided by its root mean square over the tensor. Dividing its row of weights
    # instead touches no entry, and a feature that is constant along an axis stays small until the
    # addition.
    h = column(mlp.b0)
    for x, end, channels in zip(inputs, ends, CHANNELS, strict=True):
        square = jnp.mean(x * x, axis=tuple(range(1, x.ndim)))
        w = mlp.w0[end - channels : end] * jax.lax.rsqrt(NORMALIZE_EPSILON + square)[:, None]
        h = h + jnp.einsum("ch,c...->h...", w, x)
    h = jax.nn.relu(h)
    h = jax.nn.relu(jnp.einsum("ch,c...->h...", mlp.w1, h) + column(mlp.b1))
    direction, magnitude = jnp.einsum("ch,c...->h...", mlp.w2[:, :2], h) + column(mlp.b2[:2])
    return direction, magnitude
