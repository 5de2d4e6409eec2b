"""Loops over equal parts of an axis, in place: what bounds the temporary memory of a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

T = TypeVar("T")
Parts = Mapping[int, tuple[Any, int]]
"""{axis: (i, width)}: part i of an axis that is divided into parts of that width."""


def largest_divisor(length: int, limit: int) -> int:
    """Return the largest divisor of `length` up to `limit`, at least 1."""
    if length <= limit:
        return max(1, length)
    divisor = max(1, limit)
    while length % divisor:
        divisor = divisor - 1
    return divisor


def take(x: jax.Array, parts: Parts) -> jax.Array:
    """Return the part of an array."""
    starts, sizes = _window(x, parts)
    return x if tuple(sizes) == x.shape else lax.dynamic_slice(x, starts, sizes)


def put(x: jax.Array, part: jax.Array, parts: Parts) -> jax.Array:
    """Return x with its part replaced; in a loop, XLA does so in place."""
    starts, sizes = _window(x, parts)
    return part if tuple(sizes) == x.shape else lax.dynamic_update_slice(x, part, starts)


def _window(x: jax.Array, parts: Parts) -> tuple[list[Any], list[int]]:
    starts: list[Any] = [0] * x.ndim
    sizes = list(x.shape)
    for axis, (i, width) in parts.items():
        starts[axis], sizes[axis] = i * width, width
    return starts, sizes


def over_tiles(count: int, body: Callable[[Any, T], T], carry: T) -> T:
    """Return the carry after the body was run for each tile; one tile needs no loop."""
    return body(0, carry) if count == 1 else lax.fori_loop(0, count, body, carry)


def sum_over_tiles(count: int, f: Callable[[Any], T]) -> T:
    """Return the sum of f(i), a tree of arrays, over the tiles."""
    if count == 1:
        return f(0)

    def body(i: Any, total: T) -> T:
        return jax.tree.map(jnp.add, total, f(i))

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(f, 0))
    return lax.fori_loop(0, count, body, zeros)
