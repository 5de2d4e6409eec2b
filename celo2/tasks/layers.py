"""Layers that several networks share; parameters are found by dotted names."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp

from celo2.tasks.base import Params, lecun


def linear_params(key: jax.Array, name: str, shape: tuple[int, ...], scale: float = 1.0) -> Params:
    """Initialize a matrix (..., in, out) at `scale` times LeCun's deviation, and a zero bias."""
    return {f"{name}.w": scale * lecun(key, shape), f"{name}.b": jnp.zeros(shape[-1])}


def linear(params: Params, name: str, x: jax.Array) -> jax.Array:
    """Apply a matrix and its bias to the last axis."""
    return x @ params[f"{name}.w"] + params[f"{name}.b"]


def norm_params(name: str, width: int) -> Params:
    """Initialize the scale and shift of a normalization layer."""
    return {f"{name}.scale": jnp.ones(width), f"{name}.shift": jnp.zeros(width)}


def scale_and_shift(params: Params, name: str, x: jax.Array) -> jax.Array:
    """Apply what a normalization layer learns."""
    return x * params[f"{name}.scale"] + params[f"{name}.shift"]


def layer_norm(params: Params, name: str, x: jax.Array) -> jax.Array:
    """Normalize over the last axis."""
    return scale_and_shift(params, name, jax.nn.standardize(x, epsilon=1e-5))


def group_norm(params: Params, name: str, x: jax.Array, groups: int) -> jax.Array:
    """Normalize images (n, h, w, c) over positions and over the channels of each group."""
    n, height, width, channels = x.shape
    grouped = x.reshape(n, height * width, groups, channels // groups)
    normalized = jax.nn.standardize(grouped, axis=(1, 3), epsilon=1e-5)
    return scale_and_shift(params, name, normalized.reshape(x.shape))


def rms_norm(x: jax.Array) -> jax.Array:
    """Divide by the root of the mean square over the last axis."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)


def patches(x: jax.Array, stride: int = 1) -> jax.Array:
    """Collect what a 3x3 convolution reads: (n, h, w, c) -> (n, h/stride, w/stride, 9 c).

    Padded as XLA's SAME. On a CPU, XLA's convolutions inside a loop are several times slower than
    a product with patches.
    """
    before = stride % 2
    x = jnp.pad(x, ((0, 0), (before, 1), (before, 1), (0, 0)))
    _, height, width, _ = x.shape
    taps = []
    for i, j in itertools.product(range(3), range(3)):
        taps.append(x[:, i : height - 2 + i : stride, j : width - 2 + j : stride])
    return jnp.concatenate(taps, -1)


def tiles(x: jax.Array, side: int) -> jax.Array:
    """Cut images (n, h, w, c) into squares: (n, h/side * w/side, side * side * c)."""
    n, height, width, channels = x.shape
    rows, columns = height // side, width // side
    split = x.reshape(n, rows, side, columns, side, channels).transpose(0, 1, 3, 2, 4, 5)
    return split.reshape(n, rows * columns, side * side * channels)


def select(params: Params, prefix: str) -> Params:
    """Select the parameters below a prefix, by the rest of their names."""
    start = f"{prefix}."
    return {name.removeprefix(start): p for name, p in params.items() if name.startswith(start)}
