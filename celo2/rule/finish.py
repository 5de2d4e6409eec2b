"""What follows the MLP: orthogonalization of the direction, and normalization to RMS 1."""

from __future__ import annotations

from typing import Any

from celo2.rule.spec import Spec

Array = Any


def orthogonalize(xp: Any, spec: Spec, d: Array) -> Array:
    """Bring all singular values of d (..., a, b), a <= b, to about 1 by Newton-Schulz.

    The quintic iteration of Muon (Jordan et al., 2024), by the coefficients of the spec.
    """
    norm = xp.sqrt(xp.sum(d * d, axis=(-2, -1), keepdims=True))
    x = d / (norm + spec.newton_schulz_epsilon)
    for c1, c3, c5 in spec.newton_schulz_steps:
        gram = x @ xp.swapaxes(x, -1, -2)
        x = c1 * x + (c3 * gram + c5 * (gram @ gram)) @ x
    return x


def normalize(xp: Any, spec: Spec, d: Array, active: Array) -> Array:
    """Bring each matrix of d to RMS 1, and to zero where `active` (..., 1, 1) is False."""
    mean_square = xp.mean(d * d, axis=(-2, -1), keepdims=True)
    return d * (active / xp.sqrt(spec.normalize_epsilon + mean_square))


def has_history(xp: Any, momentum: Array) -> Array:
    """Return whether each matrix ever had a gradient, (..., 1, 1), from its new momenta.

    The one intended difference from the authors' implementation, in which a matrix moves before
    its first gradient, since constant channels survive their normalization.
    """
    return xp.sum(xp.abs(momentum), axis=(0, -2, -1), keepdims=True)[0] > 0


def has_gradient(xp: Any, g: Array) -> Array:
    """Return whether any entry of each matrix of g differs from zero, (..., 1, 1)."""
    return xp.sum(xp.abs(g), axis=(-2, -1), keepdims=True) > 0
