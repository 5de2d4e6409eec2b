"""Running statistics of one tensor's gradient, the same for Celo and VeLO."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

DECAYS = (0.9, 0.99, 0.999)
SECOND_MOMENT_DECAY = 0.999
GRADIENT_CLIP = 1000.0
FACTORED_FLOOR = 1e-30


class Accumulators(NamedTuple):
    """Statistics of one tensor; all zero at first, never bias-corrected."""

    momentum: jax.Array
    """M_i: (3, *shape)."""
    second_moment: jax.Array
    """V: shape."""
    factored: tuple[jax.Array, ...]
    """R_i and C_i: (3, *shape) with length 1 along d0 and d1; of a vector D_i, (3, *shape)."""


def matrix_axes(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return (d0, d1), the longest and the second-longest axis; the later one wins a tie."""
    order = sorted(range(len(shape)), key=lambda axis: shape[axis])
    return order[-1], order[-2]


def init(p: jax.Array) -> Accumulators:
    """Return the accumulators of a tensor that has not seen a gradient."""

    def zeros(shape: tuple[int, ...]) -> jax.Array:
        return jnp.zeros((len(DECAYS), *shape), p.dtype)

    if p.ndim < 2:
        return Accumulators(zeros(p.shape), jnp.zeros_like(p), (zeros(p.shape),))
    factored = []
    for axis in matrix_axes(p.shape):
        shape = list(p.shape)
        shape[axis] = 1
        factored.append(zeros(tuple(shape)))
    return Accumulators(zeros(p.shape), jnp.zeros_like(p), tuple(factored))


def clip(g: jax.Array) -> jax.Array:
    """Clamp a gradient, the first thing that happens to it."""
    return jnp.clip(g, -GRADIENT_CLIP, GRADIENT_CLIP)


def update(accumulators: Accumulators, g: jax.Array) -> Accumulators:
    """Return the accumulators after one more (clamped) gradient."""
    square = g * g + FACTORED_FLOOR
    means = [square]
    if g.ndim > 1:
        means = [jnp.mean(square, axis=axis, keepdims=True) for axis in matrix_axes(g.shape)]
    factored = [_decay(old, new) for old, new in zip(accumulators.factored, means, strict=True)]
    b = SECOND_MOMENT_DECAY
    second_moment = b * accumulators.second_moment + (1 - b) * g * g
    return Accumulators(_decay(accumulators.momentum, g), second_moment, tuple(factored))


def _decay(means: jax.Array, new: jax.Array) -> jax.Array:
    """Update three moving averages, one for each of `DECAYS`."""
    return jnp.stack([b * mean + (1 - b) * new for b, mean in zip(DECAYS, means, strict=True)])
