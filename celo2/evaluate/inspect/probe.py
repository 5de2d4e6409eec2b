"""What is measured of the update of one matrix at one step, from gradient and running statistics.

The directions that the update is compared with are handwritten optimizers' on the same gradients:

    Muon      NS(M)           momentum of the first decay, orthogonalized; no Nesterov
    Adam      M / sqrt(V)     decays: the first momentum's and the second moment's (0.9, 0.95)
    momentum  M               SGD with momentum
    SGD       G               the gradient
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from celo2 import rule
from celo2.rule import Accumulators, Channels, Spec, Weights

COMPARED = ("Muon", "Adam", "momentum", "SGD")


class Probe(NamedTuple):
    """Numbers of one matrix, or means over a batch of them."""

    cosines: jax.Array
    """Of the update to each direction of `COMPARED`."""
    momentum_cosines: jax.Array
    """The lowest in the batch, of the update to each momentum M_i."""
    active: jax.Array
    """Fraction of the entries at which each hidden unit is above zero, (2, hidden)."""


class Directions(NamedTuple):
    """The direction of the rule before and after orthogonalization, (..., a, b)."""

    before: jax.Array
    after: jax.Array
    active: jax.Array
    """As in `Probe`."""


def directions(
    spec: Spec, theta: Weights, accumulators: Accumulators, g: jax.Array, p: jax.Array
) -> Directions:
    """Return the directions that the rule computes from the NEW running statistics."""
    channels = rule.compute_features(jnp, spec, accumulators, g, p)
    squares = Channels(*(rule.mean_squares(jnp, kind) for kind in channels))
    layer = rule.fold(jnp, spec, theta.w0, squares, vector=len(accumulators.factored) == 1)
    h = jnp.zeros(())
    for weights, kind in zip(layer, channels, strict=True):
        if kind:
            h = h + rule.first_layer(jnp, weights, kind)
    units = jnp.stack(rule.hidden_layers(jnp, theta, h))
    active = jnp.mean(units > 0, axis=(*range(1, units.ndim - 2), -1))
    before = rule.later_layers(jnp, theta, h)
    after = rule.orthogonalize(jnp, spec, before) if spec.newton_schulz else before
    return Directions(before, after, active)


def probe(
    spec: Spec, theta: Weights, accumulators: Accumulators, g: jax.Array, p: jax.Array
) -> Probe:
    """Measure the update of a matrix (..., a, b); the running statistics are the new ones."""
    _, update, active = directions(spec, theta, accumulators, g, p)
    m, v = rule.split_averages(spec, accumulators.averages)
    if v is None:
        # The rule keeps none; of its factored moments, Adafactor's estimate stands in.
        rows, columns = (side[0] for side in accumulators.factored)
        v = rows * columns / jnp.mean(rows, -2, keepdims=True)
    adam = m[0] / (jnp.sqrt(v) + spec.second_moment_epsilon)
    compared = [rule.orthogonalize(jnp, spec, m[0]), adam, m[0], g]
    cosines = [jnp.mean(cosine(update, direction)) for direction in compared]
    momentum_cosines = [jnp.min(cosine(update, momentum)) for momentum in m]
    return Probe(jnp.stack(cosines), jnp.stack(momentum_cosines), active)


def cosine(x: jax.Array, y: jax.Array) -> jax.Array:
    """Return the cosine of the angle between matrices (..., a, b) as vectors; 0 for a zero one."""
    product = jnp.sum(x * y, (-2, -1))
    lengths = jnp.sqrt(jnp.sum(x * x, (-2, -1)) * jnp.sum(y * y, (-2, -1)))
    return jnp.where(lengths > 0, product / jnp.where(lengths > 0, lengths, 1), 0)
