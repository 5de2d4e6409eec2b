"""Meta-gradients by truncated backpropagation through the inner loop."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax

from celo2.meta.estimators.base import Estimate, check_truncation, first_starts, starts
from celo2.meta.inner import InnerLoop, Trajectory, unroll
from celo2.meta.learners import Weights
from celo2.tasks.base import TaskFamily


@dataclasses.dataclass(frozen=True)
class Unrolled:
    """Gradient of the mean weighted loss over the unroll, clipped per trajectory, then averaged.

    Backpropagation through a trajectory of extreme scale gives gradients of 1e6 that would dominate
    all others: each trajectory's gradient is clipped to `trajectory_clip` BEFORE the mean, and left
    out if it is not finite.
    """

    trajectories: int = 16
    """Networks in training side by side."""
    truncation_length: int = 50
    """Inner steps of each per outer step."""
    trajectory_clip: float = 0.1
    """Norm of one trajectory's gradient."""
    imitation: tuple[float, float] = (0.0, 0.0)
    """Weight of the distance to Muon's update at the first and last outer step, linear between."""

    def begin(
        self, loop: InnerLoop, family: TaskFamily, theta: Weights, key: jax.Array
    ) -> Trajectory:
        check_truncation(loop, self.truncation_length)
        return first_starts(loop, family, key, self.trajectories)

    def estimate(
        self,
        loop: InnerLoop,
        family: TaskFamily,
        theta: Weights,
        state: Trajectory,
        key: jax.Array,
        progress: jax.Array | float = 0.0,
    ) -> Estimate:
        first, last = self.imitation
        weight = first + (last - first) * progress
        start_key, batch_key = jax.random.split(key)
        fresh = starts(loop, family, start_key, self.trajectories)
        keys = jax.random.split(batch_key, (self.trajectories, self.truncation_length))

        def meta_loss(
            theta: Weights, trajectory: Trajectory, fresh: Trajectory, keys: jax.Array
        ) -> tuple[jax.Array, tuple[jax.Array, Trajectory]]:
            imitate = any(self.imitation)
            steps, after = unroll(loop, family, theta, trajectory, fresh, keys, imitate)
            loss = jnp.mean(steps.weight * steps.loss + weight * steps.distance_to_muon)
            return loss, (steps.loss.mean(), after)

        def one(
            trajectory: Trajectory, fresh: Trajectory, keys: jax.Array
        ) -> tuple[Weights, jax.Array, jax.Array, Trajectory]:
            value_and_grad = jax.value_and_grad(meta_loss, has_aux=True)
            (_, (loss, after)), gradient = value_and_grad(theta, trajectory, fresh, keys)
            gradient, finite = self._clipped(gradient)
            return gradient, loss, ~finite, after

        gradients, losses, dropped, after = jax.vmap(one)(state, fresh, keys)
        kept = jnp.maximum(self.trajectories - dropped.sum(), 1)
        gradient = jax.tree.map(lambda g: g.sum(0) / kept, gradients)
        return Estimate(gradient, losses.mean(), dropped.sum(), after)

    def _clipped(self, gradient: Weights) -> tuple[Weights, jax.Array]:
        """Clip the gradient of one trajectory; return zeros and False if it is not finite."""
        norm = optax.tree.norm(gradient)
        finite = jnp.isfinite(norm)
        scale = jnp.minimum(1.0, self.trajectory_clip / (norm + 1e-30))
        return jax.tree.map(lambda g: jnp.where(finite, g * scale, 0.0), gradient), finite
