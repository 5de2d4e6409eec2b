"""What Celo and VeLO share as optax transformations: checks of inputs, and float32 inside."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from celo2.errors import InputError


def in_float32(
    inner: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """Run `inner` in float32, or float64 where the parameters are.

    Updates get the dtype of the gradients. Products run at the highest precision, since
    accelerators round them to fewer bits by default.
    """

    def init(params: optax.Params) -> optax.OptState:
        return inner.init(jax.tree.map(_wide, params))

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        if params is None:
            raise InputError(
                "params is None, but this optimizer reads them; call update(grads, state, params)"
            )
        wide, wide_params = jax.tree.map(_wide, updates), jax.tree.map(_wide, params)
        with jax.default_matmul_precision("highest"):
            steps, state = inner.update(wide, state, wide_params, **extra)
        return jax.tree.map(lambda step, g: step.astype(jnp.result_type(g)), steps, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def check_num_steps(num_steps: int | jax.Array) -> None:
    """Raise unless this is a number of steps; a traced one cannot be looked at."""
    if isinstance(num_steps, Tracer):
        return
    if not isinstance(num_steps, int | np.integer | jax.Array) or num_steps < 1:
        raise InputError(
            f"num_steps is {num_steps!r}; it must be the planned number of steps, at least 1"
        )


def scalar_loss(value: Any) -> jax.Array:
    """Return the loss of this step as an array; raise if it was not passed."""
    if value is None:
        raise InputError(
            "value is missing, but this optimizer reads the training loss at every step; "
            "call update(grads, state, params, value=loss)"
        )
    loss = jnp.asarray(value, float)
    if loss.ndim:
        raise InputError(
            f"value has shape {loss.shape}; it must be the training loss of this step, a scalar"
        )
    return loss


def _wide(x: Any) -> jax.Array:
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError(
            f"a leaf of shape {x.shape} is of {x.dtype}; only real floats can be optimized; mask it"
        )
    if x.size == 0:
        raise InputError(f"a leaf of shape {x.shape} is empty; leave it out with optax.masked")
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
