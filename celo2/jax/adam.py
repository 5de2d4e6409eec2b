"""Adam of the parameters that the rule leaves to it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from celo2.jax.leaf import as_float


def scale_by_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Run Adam in float32, and keep the moments of a leaf whose gradient is not finite.

    Its bias correction counts the step all the same: optax keeps one count for all leaves.
    """
    adam = optax.scale_by_adam(b1, b2, eps)

    def init(params: Any) -> Any:
        return adam.init(jax.tree.map(as_float, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        result: tuple[Any, Any] = adam.update(jax.tree.map(as_float, updates), state, params)
        steps, new = result
        finite = jax.tree.map(lambda g: jnp.isfinite(g).all(), updates)
        mu = jax.tree.map(jnp.where, finite, new.mu, state.mu)
        nu = jax.tree.map(jnp.where, finite, new.nu, state.nu)
        steps = jax.tree.map(lambda step, g: step.astype(jnp.asarray(g).dtype), steps, updates)
        return steps, new._replace(mu=mu, nu=nu)

    return optax.GradientTransformation(init, update)
