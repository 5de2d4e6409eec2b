"""What Celo and VeLO know of the whole run: how far it is, and how the training loss develops."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

TIMESCALES = 10
SHORTEST = 10.0
"""Moving averages of the loss cover from this many steps to `num_steps`."""
FRACTIONS = (0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1)
"""Fractions of the run around which the time features change."""


class LossBuffer(NamedTuple):
    """Moving averages of the training loss over ten timescales."""

    mean: jax.Array
    """m_k: (10,), zero at first, not bias-corrected."""
    lowest: jax.Array
    """r_k: (10,), the lowest bias-corrected mean so far."""


def init() -> LossBuffer:
    """Return the buffer before the first loss."""
    return LossBuffer(jnp.zeros(TIMESCALES), jnp.full(TIMESCALES, 999999999999.0, float))


def observe(
    buffer: LossBuffer, loss: jax.Array, count: jax.Array, num_steps: int | jax.Array
) -> tuple[LossBuffer, jax.Array]:
    """Return the buffer after one more loss, and 18 features in [-1, 1], of time and of the loss.

    Args:
        buffer: the buffer after `count` losses.
        loss: training loss of this step, a scalar.
        count: number of steps done, and of losses seen, before this one.
        num_steps: planned number of steps.
    """
    buffer, of_loss = _update(buffer, loss, count, num_steps)
    of_time = jnp.tanh(10 * (count.astype(float) / num_steps - jnp.array(FRACTIONS)))
    return buffer, jnp.concatenate([of_time, of_loss])


def _update(
    buffer: LossBuffer, loss: jax.Array, count: jax.Array, num_steps: int | jax.Array
) -> tuple[LossBuffer, jax.Array]:
    """Return the buffer after one more loss, and nine features of it."""
    slowest = jnp.log(jnp.asarray(num_steps, float))
    rate = jnp.exp(-jnp.linspace(jnp.log(SHORTEST), slowest, TIMESCALES))  # 1 / tau_k

    def correction(n: int | jax.Array) -> jax.Array:
        """Return 1 - d_k^n, d_k = exp(-1 / tau_k); expm1 keeps its digits where d_k is almost 1."""
        return -jnp.expm1(-n * rate)

    # A spike counts as at most twice the largest mean. The exponent here is one more than the
    # number of losses in the buffer, as in training of the published weights.
    typical = jnp.where(count > 0, jnp.max(buffer.mean / correction(count + 1)), loss)
    loss = jnp.minimum(2 * jnp.abs(typical), loss)
    mean = buffer.mean + correction(1) * (loss - buffer.mean)
    corrected = mean / correction(count + 1)
    lowest = jnp.minimum(buffer.lowest, corrected)
    return LossBuffer(mean, lowest), _features(corrected, lowest, count + 1)


def _features(mean: jax.Array, lowest: jax.Array, n: jax.Array) -> jax.Array:
    """Compare each mean with the next slower one, above the lowest so far; zero for two steps."""
    ratio = (mean[:-1] - lowest[:-1]) / jnp.maximum(1e-8, mean[1:] - lowest[:-1])
    return jnp.where(n > 2, jnp.clip(ratio - 1, -1, 1), 0)
