"""Meta-gradient by backpropagation through a short unroll of the inner loop (truncated backpropagation)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from celo2.meta.inner import InnerLoop, Trajectory, clipped, unroll
from celo2.rule import Weights
from celo2.tasks.base import TaskFamily


def estimate(
    loop: InnerLoop,
    trajectory_clip: float,
    family: TaskFamily,
    theta: Weights,
    trajectories: Trajectory,
    keys: jax.Array,
) -> tuple[Weights, jax.Array, Trajectory]:
    """(meta-gradient, meta-loss of each trajectory, the trajectories after their steps) for keys (trajectories, steps).

    The meta-loss is the mean of the clipped training loss over the unroll. Backpropagation through a trajectory whose
    scale is extreme gives gradients of 1e6 that would drown all others: each trajectory's gradient is clipped to
    `trajectory_clip` BEFORE the mean, its non-finite entries set to zero.
    """

    def meta_loss(theta: Weights, trajectory: Trajectory, keys: jax.Array) -> tuple[jax.Array, Trajectory]:
        losses, after = unroll(loop, family, theta, trajectory, keys)
        return clipped(loop, losses).mean(), after

    def one(trajectory: Trajectory, keys: jax.Array) -> tuple[Weights, jax.Array, Trajectory]:
        (loss, after), gradient = jax.value_and_grad(meta_loss, has_aux=True)(theta, trajectory, keys)
        gradient = jax.tree.map(lambda g: jnp.nan_to_num(g, nan=0.0, posinf=0.0, neginf=0.0), gradient)
        scale = jnp.minimum(1.0, trajectory_clip / (optax.tree.norm(gradient) + 1e-30))
        return jax.tree.map(lambda g: g * scale, gradient), loss, after

    gradients, losses, after = jax.vmap(one)(trajectories, keys)
    return jax.tree.map(lambda g: g.mean(0), gradients), losses, after
