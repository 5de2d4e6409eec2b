"""A leaf as batches of matrices in memory order, and back; its state before the first gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from celo2 import rule
from celo2.errors import InputError
from celo2.jax.direction import Batch
from celo2.parameters.state import ParameterState, join, moment_shapes, pack, unpack
from celo2.parameters.views import MatrixAxes, MatrixView, matrix_views
from celo2.rule import Accumulators, Spec


class Leaf(NamedTuple):
    """A leaf as a step reads it."""

    g: jax.Array
    state: ParameterState
    views: list[MatrixView]
    """None for a leaf without elements."""
    before: list[Accumulators]
    """Per view, as the rule reads them, (..., a, b)."""
    batches: list[Batch]
    """Per view, in memory order, (N, m, n)."""
    finite: jax.Array
    """Whether the gradient is finite, 0-d bool."""


def init_leaf(spec: Spec, state_dtype: Any, p: Any, axes: MatrixAxes) -> ParameterState:
    """Return the state of a leaf before its first gradient; of float64 leaves it is float64.

    Raises:
        InputError: the leaf is not of real floats, or the axes do not fit.
    """
    p = as_float(p)
    per_entry = p.dtype if p.dtype == jnp.float64 else state_dtype
    averages = jnp.stack([jnp.zeros_like(p, per_entry)] * rule.average_count(spec))
    views = matrix_views(p.shape, axes)
    rows, columns = moment_shapes(spec, views, np.empty(p.shape, np.bool_), np)
    dtype = p.dtype
    return ParameterState(averages, jnp.zeros(rows, dtype), jnp.zeros(columns, dtype))


def as_float(x: Any) -> jax.Array:
    """Return a leaf in float32, or in float64 if it has that already; Python floats are taken too.

    Raises:
        InputError: the leaf is not of real floats.
    """
    x = checked(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def checked(x: Any) -> jax.Array:
    """Return a leaf as an array.

    Raises:
        InputError: the leaf is not of real floats.
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError(
            f"a leaf of shape {x.shape} is of {x.dtype}; only real floats can be optimized, "
            "so mask or split it"
        )
    return x


def read_leaf(
    skip_zero_gradients: bool, step: jax.Array, g: Any, p: Any, axes: MatrixAxes, *state: Any
) -> Leaf:
    """Return the matrices of a leaf.

    Raises:
        InputError: the leaf is not of real floats, or the axes do not fit.
    """
    g, p, old = checked(g), checked(p), ParameterState(*state)
    finite = jnp.isfinite(g).all()
    views = matrix_views(g.shape, axes) if g.size else []
    before = list(unpack(jnp, views, old))
    batches = []
    for view, accumulators in zip(views, before, strict=True):
        batch = _batch(view, accumulators, g, p, finite, step)
        if skip_zero_gradients:
            batch = batch._replace(active=batch.active & rule.has_gradient(jnp, batch.g))
        batches.append(batch)
    return Leaf(g, old, views, before, batches, finite)


def write_leaf(
    leaf: Leaf, updates: Sequence[jax.Array], batches: Sequence[Batch]
) -> tuple[jax.Array, ParameterState]:
    """Return the update of a leaf and its new state from those of its matrices."""
    steps, accumulators = [], []
    for update, batch, before in zip(updates, batches, leaf.before, strict=True):
        shape = before.averages.shape[1:]
        steps.append(_restored(batch, update, shape))
        factored = []
        for new, old in zip(batch.factored, before.factored, strict=True):
            factored.append(new.reshape(old.shape))
        averages = _restored(batch, batch.averages, shape)
        accumulators.append(Accumulators(averages, tuple(factored)))
    if not steps:
        return leaf.g, leaf.state
    return join(jnp, leaf.views, steps), pack(jnp, leaf.views, accumulators)


def _batch(
    view: MatrixView,
    before: Accumulators,
    g: jax.Array,
    p: jax.Array,
    finite: jax.Array,
    step: jax.Array,
) -> Batch:
    # Axes that the view moved behind each other are moved back: XLA then copies nothing.
    transposed = not view.is_vector and view.short[-1] > view.long[-1]

    def flat(x: jax.Array, leading: int = 0) -> jax.Array:
        x = x.reshape(*x.shape[:leading], -1, *x.shape[-2:])
        return x.mT if transposed else x

    g, p = flat(view.view(jnp, g)), flat(view.view(jnp, p))
    active = jnp.broadcast_to(finite, (g.shape[0], 1, 1))
    factored = []
    for side in before.factored:
        factored.append(side.reshape(side.shape[0], -1, *side.shape[-2:]))
    here = 0, g.shape[0]
    averages = flat(before.averages, 1)
    return Batch(averages, tuple(factored), g, p, active, transposed, here, step)


def _restored(batch: Batch, x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return the matrices (..., a, b), of that shape, of an array (..., N, m, n)."""
    x = x.mT if batch.transposed else x
    return x.reshape(*x.shape[:-3], *shape)
