"""The naive baseline of `meta_speed.py`: the rule on one matrix as the paper writes it, unrolled.

All channels are broadcast to every matrix, channels last, each is normalized, and everything that
backpropagation needs is kept.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from celo2 import rule
from celo2.meta import inner
from celo2.meta.adam import ADAMS
from celo2.parameters.views import MatrixAxes, matrix_views
from celo2.rule import Accumulators, Weights
from celo2.tasks.mlp import ImageMLP

LOOP = inner.InnerLoop(horizon=(2000, 2000), staggered=False)


def naive_update(
    theta: Weights, acc: Accumulators, g: jax.Array, p: jax.Array
) -> tuple[jax.Array, Accumulators]:
    """Apply the rule to one matrix (a, b), channels last."""
    spec = LOOP.spec
    g = jnp.clip(g, -spec.gradient_clip, spec.gradient_clip)
    acc = rule.accumulate(jnp, spec, acc, g)
    x = jnp.stack(naive_channels(acc, g, p), -1)
    x = x / jnp.sqrt(1e-9 + jnp.mean(x * x, (0, 1), keepdims=True))
    h = jax.nn.relu(x @ theta.w0 + theta.b0)
    d = (jax.nn.relu(h @ theta.w1 + theta.b1) @ theta.w2 + theta.b2)[..., 0]
    d = rule.orthogonalize(jnp, spec, d)
    return d / jnp.sqrt(1e-9 + jnp.mean(d * d)), acc


def naive_channels(acc: Accumulators, g: jax.Array, p: jax.Array) -> list[jax.Array]:
    """List the channels of the published rule, each of the matrix's shape (a, b)."""
    (*momenta, v), (r, c) = acc
    m = jnp.stack(momenta)
    s = 1 / jnp.sqrt(v + 1e-8)
    rows = jnp.sqrt(jnp.maximum(r / (r.mean(-2, keepdims=True) + 1e-9), 1e-9))
    f = 1 / rows / jnp.sqrt(jnp.maximum(c, 1e-9))
    full = functools.partial(jnp.broadcast_to, shape=m.shape)
    channels = [g, jnp.clip(g, -0.1, 0.1), p, *m, v, *(m * s), s, *(g * f), g * s]
    channels += [*full(r), *full(c), *full(1 / jnp.sqrt(r + 1e-8)), *full(1 / jnp.sqrt(c + 1e-8))]
    return [*channels, *(m * f)]


def naive_unroll(
    theta: Weights,
    family: ImageMLP,
    trajectory: inner.Trajectory,
    fresh: inner.Trajectory,
    keys: jax.Array,
) -> jax.Array:
    """Compute the mean loss of one trajectory, which does not end."""

    def step(carry: Any, key: jax.Array) -> Any:
        params, statistics = carry
        batch_key = jax.random.split(key)[0]
        value_and_grad = jax.value_and_grad(family.loss, has_aux=True)
        (loss, _), grads = value_and_grad(params, (), trajectory.task, batch_key)
        new_params, new_statistics = {}, {}
        for name, p in params.items():
            old, g = statistics[name], grads[name]
            if p.ndim < 2:
                update, new_statistics[name] = ADAMS[LOOP.adam].update(g, old)
                update = LOOP.adamw_lr_multiplier * update
            else:
                (view,) = matrix_views(p.shape, MatrixAxes())
                g, w = view.view(jnp, g), view.view(jnp, p)
                update, new_statistics[name] = naive_update(theta, old, g, w)
                update = view.inverse(jnp, update)
            new_params[name] = p - trajectory.learning_rate * update
        return (new_params, new_statistics), loss

    carry = (trajectory.params, trajectory.statistics)
    return jax.lax.scan(step, carry, jax.random.wrap_key_data(keys))[1].mean()
