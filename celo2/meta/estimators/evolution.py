"""Meta-gradients from losses alone: PES (Vicol et al. 2021), which is unbiased, and plain ES."""

from __future__ import annotations

import abc
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from celo2.meta.estimators.base import Estimate, check_truncation, first_starts, starts
from celo2.meta.inner import InnerLoop, Steps, Trajectory, unroll
from celo2.meta.learners import Weights
from celo2.tasks.base import TaskFamily


class Pairs(NamedTuple):
    """Antithetic pairs: two networks on one task and data, under theta + eps and theta - eps."""

    positive: Trajectory
    negative: Trajectory
    accumulated: Weights
    """Sum of the perturbations since the trajectory's start, for each pair."""


@dataclasses.dataclass(frozen=True)
class Antithetic(abc.ABC):
    """What ES and PES share: they differ in the perturbation that a loss is credited to."""

    trajectories: int = 32
    """Antithetic pairs."""
    truncation_length: int = 50
    """Inner steps of each network per outer step."""
    sigma: float = 0.01
    """Standard deviation of a perturbation."""

    @abc.abstractmethod
    def credit(
        self, plus: Steps, minus: Steps, accumulated: Weights, eps: Weights
    ) -> tuple[Weights, Weights]:
        """Return the meta-gradient of one pair, and its accumulated perturbation afterwards."""

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
            higher = jax.tree.map(jnp.add, theta, eps)
            lower = jax.tree.map(jnp.subtract, theta, eps)
            plus, positive = unroll(loop, family, higher, pair.positive, fresh, keys)
            minus, negative = unroll(loop, family, lower, pair.negative, fresh, keys)
            gradient, accumulated = self.credit(plus, minus, pair.accumulated, eps)
            loss = (plus.loss + minus.loss).mean() / 2
            return gradient, loss, Pairs(positive, negative, accumulated)

        gradients, losses, state = jax.vmap(one)(state, fresh, keys, perturbation_keys)
        gradient = jax.tree.map(lambda g: g.mean(0), gradients)
        return Estimate(gradient, losses.mean(), jnp.zeros((), jnp.int32), state)

    def _perturbation(self, theta: Weights, key: jax.Array) -> Weights:
        leaves, structure = jax.tree.flatten(theta)
        keys = structure.unflatten([*jax.random.split(key, len(leaves))])

        def draw(t: jax.Array, key: jax.Array) -> jax.Array:
            return self.sigma * jax.random.normal(key, t.shape)

        return jax.tree.map(draw, theta, keys)


@dataclasses.dataclass(frozen=True)
class ES(Antithetic):
    """Antithetic evolution strategy on truncated unrolls.

    Losses are credited to the current perturbation, so the estimate is biased where a truncation's
    theta acts on later losses.
    """

    def credit(
        self, plus: Steps, minus: Steps, accumulated: Weights, eps: Weights
    ) -> tuple[Weights, Weights]:
        difference = jnp.mean(plus.weight * (plus.loss - minus.loss))
        return jax.tree.map(lambda e: difference * e / (2 * self.sigma**2), eps), accumulated


@dataclasses.dataclass(frozen=True)
class PES(Antithetic):
    """Persistent evolution strategy, unbiased.

    The two networks of a pair live on between truncations. Losses before the trajectory's reset are
    credited to the accumulated perturbation, later ones to the current one.
    """

    def credit(
        self, plus: Steps, minus: Steps, accumulated: Weights, eps: Weights
    ) -> tuple[Weights, Weights]:
        difference = plus.weight * (plus.loss - minus.loss)
        before = jnp.mean(jnp.where(plus.ended, 0.0, difference))
        after = jnp.mean(jnp.where(plus.ended, difference, 0.0))
        total = jax.tree.map(jnp.add, accumulated, eps)

        def gradient(total: jax.Array, eps: jax.Array) -> jax.Array:
            return (before * total + after * eps) / (2 * self.sigma**2)

        # After a reset, only the current perturbation has acted on the network.
        reset = plus.ended[-1]
        kept = jax.tree.map(lambda t, e: jnp.where(reset, e, t), total, eps)
        return jax.tree.map(gradient, total, eps), kept
