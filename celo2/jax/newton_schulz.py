"""Newton-Schulz for meta-training, with a backward pass of fewer products than autodiff's."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from celo2.rule.spec import Spec


def orthogonalize(xp: Any, spec: Spec, d: jax.Array) -> jax.Array:
    """Bring all singular values of d (..., a, b), a <= b, to about 1, as `rule.orthogonalize`."""
    x: Any = d / (jnp.sqrt(jnp.sum(d * d, (-2, -1), keepdims=True)) + spec.newton_schulz_epsilon)
    for _ in range(spec.newton_schulz_iterations):
        x = _iteration(spec.newton_schulz_coefficients, x)
    return x


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _iteration(coefficients: tuple[float, float, float], x: jax.Array) -> jax.Array:
    """Return c1 X + P X with G = X X^T and P = c3 G + c5 G^2."""
    return _forward(coefficients, x)[0]


def _forward(
    coefficients: tuple[float, float, float], x: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    c1, c3, c5 = coefficients
    gram = x @ x.mT
    polynomial = c3 * gram + c5 * (gram @ gram)
    return c1 * x + polynomial @ x, (x, gram, polynomial)


def _backward(
    coefficients: tuple[float, float, float], kept: tuple[jax.Array, ...], dy: jax.Array
) -> tuple[jax.Array]:
    """Return the gradient of X.

    Autodiff does not know that G and P are symmetric: with dP symmetrized first, G^2 and X X^T each
    take one product less.
    """
    c1, c3, c5 = coefficients
    x, gram, polynomial = kept
    half = dy @ x.mT
    d_polynomial = half + half.mT
    half = d_polynomial @ gram
    d_gram = c3 * d_polynomial + c5 * (half + half.mT)
    return (c1 * dy + polynomial @ dy + d_gram @ x,)


_iteration.defvjp(_forward, _backward)
