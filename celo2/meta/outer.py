"""The outer loop: theta descends the meta-loss. One iteration is one jitted pure function; the run around it resumes."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from celo2.meta import inner
from celo2.meta.checkpoint import Checkpoint
from celo2.meta.config import MetaConfig
from celo2.meta.estimators import unrolled
from celo2.rule import Weights
from celo2.tasks.base import TaskFamily
from celo2.theta import Theta


class OuterState(NamedTuple):
    """All that an outer iteration reads and writes. Randomness comes from the seed and `iteration` alone."""

    theta: Weights
    optimizer: Any
    trajectories: inner.Trajectory
    iteration: jax.Array


class Metrics(NamedTuple):
    """What one outer iteration reports."""

    iteration: int
    meta_loss: float
    """Mean over trajectories and inner steps of the clipped training loss."""
    gradient_norm: float
    """Of the mean meta-gradient, before the global clip."""
    seconds: float
    """Of meta-training so far, interruptions not counted."""


def outer_optimizer(config: MetaConfig) -> optax.GradientTransformation:
    """AdamW under warm-up and cosine, behind a global clip."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, config.warmup, config.outer_iterations, config.final_learning_rate
    )
    adamw = optax.adamw(schedule, b1=0.9, b2=0.999, eps=1e-8, weight_decay=config.weight_decay)
    return optax.chain(optax.clip_by_global_norm(config.global_clip), adamw)


def begin(config: MetaConfig, family: TaskFamily) -> OuterState:
    """Random theta, fresh trajectories with staggered step counters, so that they do not all end at once."""
    theta = jax.tree.map(jnp.asarray, Theta.random(config.seed, config.inner.spec).weights)
    start_key, stagger_key = jax.random.split(jax.random.key(config.seed))
    keys = jax.random.split(start_key, config.trajectories)
    trajectories = jax.vmap(functools.partial(inner.start, config.inner, family))(keys)
    step = jax.random.randint(stagger_key, (config.trajectories,), 0, trajectories.horizon)
    state = outer_optimizer(config).init(theta)
    return OuterState(theta, state, trajectories._replace(step=step), jnp.zeros((), jnp.int32))


@functools.partial(jax.jit, static_argnums=0)
def outer_iteration(config: MetaConfig, family: TaskFamily, state: OuterState) -> tuple[OuterState, dict[str, jax.Array]]:
    """Renew the trajectories that reached their horizon, unroll all, descend."""
    key = jax.random.fold_in(jax.random.key(config.seed + 1), state.iteration)
    start_key, batch_key = jax.random.split(key)
    trajectories = renew(config, family, state.trajectories, start_key)
    keys = jax.random.split(batch_key, (config.trajectories, config.truncation_length))
    gradient, losses, trajectories = unrolled.estimate(
        config.inner, config.trajectory_clip, family, state.theta, trajectories, keys
    )
    updates, optimizer = outer_optimizer(config).update(gradient, state.optimizer, state.theta)
    theta = jax.tree.map(jnp.add, state.theta, updates)
    metrics = {"meta_loss": losses.mean(), "gradient_norm": optax.tree.norm(gradient)}
    return OuterState(theta, optimizer, trajectories, state.iteration + 1), metrics


def renew(config: MetaConfig, family: TaskFamily, trajectories: inner.Trajectory, key: jax.Array) -> inner.Trajectory:
    """A fresh network, task and horizon for each trajectory that reached its horizon."""
    keys = jax.random.split(key, config.trajectories)
    fresh = jax.vmap(functools.partial(inner.start, config.inner, family))(keys)
    ended = trajectories.step >= trajectories.horizon

    def choose(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(ended.reshape(-1, *(1,) * (old.ndim - 1)), new, old)

    return jax.tree.map(choose, fresh, trajectories)


def run(config: MetaConfig, family: TaskFamily, directory: Path, every_seconds: float = 60.0) -> Iterator[Metrics]:
    """Meta-train, yielding the metrics of each outer iteration; `directory` holds the checkpoint and the metrics.

    A run that was cut goes on from its last checkpoint, to the bit-identical theta. Checkpoints are written every
    `every_seconds`, at the end, and when the loop is interrupted or closed.

    Raises:
        InputError: `directory` holds a run of another configuration.
    """
    checkpoint = Checkpoint(directory, config)
    state, elapsed = checkpoint.restore(begin(config, family))
    began = saved = time.monotonic()
    try:
        for iteration in range(int(state.iteration), config.outer_iterations):
            new_state, values = outer_iteration(config, family, state)
            numbers = {name: float(value) for name, value in values.items()}  # waits for the device
            state, now = new_state, time.monotonic()
            metrics = Metrics(iteration, **numbers, seconds=elapsed + now - began)
            checkpoint.record(metrics._asdict())
            if now - saved > every_seconds:
                checkpoint.save(state, metrics.seconds)
                saved = now
            yield metrics
    finally:
        checkpoint.save(state, elapsed + time.monotonic() - began)


def theta_of(config: MetaConfig, directory: Path, family: TaskFamily) -> tuple[Weights, float]:
    """(theta so far, seconds spent) of the run in `directory`."""
    state, seconds = Checkpoint(directory, config).restore(begin(config, family))
    return Weights(*jax.device_get(state.theta)), seconds
