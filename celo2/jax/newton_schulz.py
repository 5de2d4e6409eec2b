"""Newton-Schulz in JAX: `rule.orthogonalize` in fewer products, forward and backward.

Where a matrix is much longer than wide, the iterations are a polynomial in the small Gram matrix
X X^T. The backward pass knows that all matrices of that side are symmetric and commute. The
coefficients are those of the spec.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from celo2.jax.tiles import largest_divisor, over_tiles, put, sum_over_tiles, take
from celo2.rule.spec import Coefficients, Spec

GRAM_FROM = 1.5
"""Ratio b / a from which the Gram form is cheaper: 8 a^2 b + 28 a^3 operations against
20 a^2 b + 10 a^3."""
RESTART_EVERY = 3
"""Iterations after which the Gram matrix is recomputed: for small singular values its rounding
error grows about twelvefold per iteration with the coefficients of Muon."""
TILE = 1 << 20
"""Elements of X that are multiplied at once, if in tiles: enough for products at full speed."""

Iterations = tuple[Coefficients, ...]
_product = functools.partial(jnp.matmul, precision="highest")
"""The Gram form would lose small singular values where float32 is rounded to fewer bits (TF32)."""


def orthogonalize(xp: Any, spec: Spec, d: jax.Array, in_tiles: bool = False) -> jax.Array:
    """Bring all singular values of d (..., m, n) to about 1, as `rule.orthogonalize`.

    Either side may be the longer one: nothing is transposed. With `in_tiles`, products overwrite X
    some rows or columns at a time, so that no second X is allocated; not for a sharded X.
    """
    norm = jnp.sqrt(jnp.sum(d * d, (-2, -1), keepdims=True))
    # The barrier keeps XLA from computing X once for each product that reads it.
    x: jax.Array = jax.lax.optimization_barrier(d / (norm + spec.newton_schulz_epsilon))
    a, b = sorted(d.shape[-2:])
    left = spec.newton_schulz_steps
    while left:
        here = (len(left) - 1) % RESTART_EVERY + 1 if b >= GRAM_FROM * a else 1
        x = _iterations(left[:here], in_tiles, x)
        left = left[here:]
    return x


class _Chain(NamedTuple):
    """Matrices (..., a, a) of some iterations X <- F_i X, all polynomials in X X^T."""

    grams: list[jax.Array]
    """G_i = X_i X_i^T."""
    factors: list[jax.Array]
    """F_i = c1 + c3 G_i + c5 G_i^2."""
    products: list[jax.Array]
    """F_i ... F_1; the last one takes X to the result."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _iterations(iterations: Iterations, in_tiles: bool, x: jax.Array) -> jax.Array:
    """Return X after the iterations."""
    return _forward(iterations, in_tiles, x)[0]


def _forward(
    iterations: Iterations, in_tiles: bool, x: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, _Chain]]:
    chain = _chain(iterations, _gram(x, in_tiles))
    return _multiply(chain.products[-1], x, in_tiles), (x, chain)


def _chain(iterations: Iterations, gram: jax.Array) -> _Chain:
    chain = _Chain([gram], [], [])
    for i, (c1, c3, c5) in enumerate(iterations):
        if i:
            gram = _product(_product(chain.factors[-1], gram), chain.factors[-1])
            chain.grams.append(gram)
        factor = c1 * jnp.eye(gram.shape[-1], dtype=gram.dtype) + c3 * gram
        factor = factor + c5 * _product(gram, gram)
        chain.factors.append(factor)
        chain.products.append(_product(factor, chain.products[-1]) if i else factor)
    return chain


def _backward(
    iterations: Iterations, in_tiles: bool, kept: tuple[jax.Array, _Chain], dy: jax.Array
) -> tuple[jax.Array]:
    """Return the gradient of X: autodiff would not know that the small matrices are symmetric."""
    x, (grams, factors, products) = kept
    d_product = _symmetric(_small_side(dy, x))
    d_gram: Any = 0.0
    for i, (_, c3, c5) in reversed(list(enumerate(iterations))):
        gram, factor = grams[i], factors[i]
        d_factor = _product(d_product, products[i - 1]) if i else d_product
        if i < len(iterations) - 1:
            # G_(i+1) = F_i G_i F_i
            through = _product(d_gram, factor)
            d_factor = d_factor + 2 * _product(through, gram)
            d_gram = _product(factor, through)
        d_factor = _symmetric(d_factor)
        d_gram = d_gram + c3 * d_factor + 2 * c5 * _symmetric(_product(d_factor, gram))
        d_product = _product(factor, d_product)
    return (_multiply(products[-1], dy) + _multiply(2 * d_gram, x),)


_iterations.defvjp(_forward, _backward)


def _symmetric(x: jax.Array) -> jax.Array:
    return 0.5 * (x + x.mT)


def _is_wide(x: jax.Array) -> bool:
    return x.shape[-2] <= x.shape[-1]


def _gram(x: jax.Array, in_tiles: bool) -> jax.Array:
    """Return X X^T for wide matrices and X^T X for tall ones."""
    if not in_tiles:
        return _small_side(x, x)
    axis, width = _tiles(x)

    def one_tile(i: Any) -> jax.Array:
        tile = take(x, {axis: (i, width)})
        return _product(tile, tile.mT) if axis == -1 else _product(tile.mT, tile)

    return sum_over_tiles(x.shape[axis] // width, one_tile)


def _tiles(x: jax.Array) -> tuple[int, int]:
    """Return the longer axis and the width of the tiles along it."""
    axis = -1 if _is_wide(x) else -2
    length = x.shape[axis]
    return axis, largest_divisor(length, TILE * length // max(1, x.size))


def _small_side(x: jax.Array, y: jax.Array) -> jax.Array:
    """Return X Y^T for wide matrices and X^T Y for tall ones."""
    return _product(x, y.mT) if _is_wide(x) else _product(x.mT, y)


def _multiply(q: jax.Array, x: jax.Array, in_tiles: bool = False) -> jax.Array:
    """Return Q X for wide matrices and X Q for tall ones; Q is symmetric."""
    axis, width = _tiles(x)

    def product(x: jax.Array) -> jax.Array:
        return _product(q, x) if axis == -1 else _product(x, q)

    if not in_tiles:
        return product(x)

    def one_tile(i: Any, y: jax.Array) -> jax.Array:
        here = {axis: (i, width)}
        return put(y, product(take(y, here)), here)

    return over_tiles(x.shape[axis] // width, one_tile, x)
