"""Meta-gradients from losses alone: PES (Vicol et al. 2021), which is unbiased, and plain ES."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from celo2.meta.estimators.base import Estimate, check_truncation, first_starts, starts
from celo2.meta.inner import InnerLoop, Steps, Trajectory, unroll
from celo2.rule import Weights
from celo2.tasks.base import TaskFamily


class Pairs(NamedTuple):
    """Antithetic pairs: two networks on one task and data, under theta + eps and theta - eps."""

    positive: Trajectory
    negative: Trajectory
    accumulated: Weights
    """Sum of the perturbations since the trajectory's start, for each pair."""


@dataclasses.dataclass(frozen=True)
class ES:
    """Antithetic evolution strategy on truncated unrolls.

    It is biased where a truncation's theta acts on later losses.
    """

    trajectories: int = 32
    """Antithetic pairs."""
    truncation_length: int = 50
    """Inner steps of each network per outer iteration."""
    sigma: float = 0.01
    """Standard deviation of a perturbation."""

    def begin(self, loop: InnerLoop, family: TaskFamily, theta: Weights, key: jax.Array) -> Pairs:
        check_truncation(loop, self.truncation_length)
        trajectories = first_starts(loop, family, key, self.trajectories)
        zero = jax.tree.map(lambda t: jnp.zeros((self.trajectories, *t.shape)), theta)
        return Pairs(trajectories, trajectories, zero)

    def estimate(
        self,
        loop: InnerLoop,
        family: TaskFamily,
        theta: Weights,
        state: Pairs,
        key: jax.Array,
        progress: jax.Array | float = 0.0,
    ) -> Estimate:
        start_key, batch_key, perturbation_key = jax.random.split(key, 3)
        fresh = starts(loop, family, start_key, self.trajectories)
        keys = jax.random.split(batch_key, (self.trajectories, self.truncation_length))
        perturbation_keys = jax.random.split(perturbation_key, self.trajectories)

        def one(
            pair: Pairs, fresh: Trajectory, keys: jax.Array, perturbation_key: jax.Array
        ) -> tuple[Weights, jax.Array, Pairs]:
            eps = self._perturbation(theta, perturbation_key)
            plus, positive = unroll(
                loop, family, jax.tree.map(jnp.add, theta, eps), pair.positive, fresh, keys
            )
            minus, negative = unroll(
                loop, family, jax.tree.map(jnp.subtract, theta, eps), pair.negative, fresh, keys
            )
            gradient, accumulated = self._gradient(plus, minus, pair.accumulated, eps)
            return (
                gradient,
                (plus.loss + minus.loss).mean() / 2,
                Pairs(positive, negative, accumulated),
            )

        gradients, losses, state = jax.vmap(one)(state, fresh, keys, perturbation_keys)
        return Estimate(
            jax.tree.map(lambda g: g.mean(0), gradients),
            losses.mean(),
            jnp.zeros((), jnp.int32),
            state,
        )

    def _perturbation(self, theta: Weights, key: jax.Array) -> Weights:
        keys = Weights(*jax.random.split(key, len(theta)))
        return jax.tree.map(
            lambda t, key: self.sigma * jax.random.normal(key, t.shape), theta, keys
        )

    def _gradient(
        self, plus: Steps, minus: Steps, accumulated: Weights, eps: Weights
    ) -> tuple[Weights, Weights]:
        """(gradient of one pair, what it accumulates)."""
        difference = jnp.mean(plus.weight * (plus.loss - minus.loss))
        return jax.tree.map(lambda e: difference * e / (2 * self.sigma**2), eps), accumulated


@dataclasses.dataclass(frozen=True)
class PES(ES):
    """Persistent evolution strategy, unbiased.

    The two networks of a pair live on between truncations. Losses before the trajectory's reset are
    credited to the accumulated perturbation, later ones to the current one.
    """

    def _gradient(
        self, plus: Steps, minus: Steps, accumulated: Weights, eps: Weights
    ) -> tuple[Weights, Weights]:
        difference = plus.weight * (plus.loss - minus.loss)
        before = jnp.mean(jnp.where(plus.ended, 0.0, difference))
        after = jnp.mean(jnp.where(plus.ended, difference, 0.0))
        total = jax.tree.map(jnp.add, accumulated, eps)
        gradient = jax.tree.map(
            lambda a, e: (before * a + after * e) / (2 * self.sigma**2), total, eps
        )
        ended = plus.ended[-1]
        return gradient, jax.tree.map(lambda a, e: jnp.where(ended, e, a), total, eps)
