"""The outer loop: theta descends the meta-loss, one jitted pure function per outer step."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from celo2.meta.checkpoint import Checkpoint
from celo2.meta.config import MetaConfig
from celo2.meta.devices import Devices
from celo2.meta.learners import Weights
from celo2.meta.starts import start
from celo2.meta.symmetry import project
from celo2.tasks.base import TaskFamily

Families = Sequence[TaskFamily]
"""Task families that theta is learned on; each has the estimator's trajectories, all equal
weight."""


class OuterState(NamedTuple):
    """All that an outer step reads and writes; randomness comes from the seed and `step` alone."""

    theta: Weights
    optimizer: Any
    estimator: Any
    """The trajectories of each family; the only part that is sharded over devices."""
    step: jax.Array


class Metrics(NamedTuple):
    """What one outer step reports."""

    step: int
    meta_loss: float
    """Mean over trajectories and inner steps of the clipped loss, unweighted."""
    gradient_norm: float
    """Of the mean meta-gradient, before the global clip."""
    dropped: int
    """Trajectories whose gradient was not finite, left out of the mean."""
    skipped: int
    """Outer steps so far that were not taken because the mean was not finite."""
    seconds: float
    """Of meta-training so far, interruptions not counted."""


def outer_optimizer(config: MetaConfig) -> optax.GradientTransformation:
    """Return AdamW with warm-up and cosine behind a global clip.

    A gradient that is not finite changes nothing and is counted.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        0.0,
        config.learning_rate,
        config.warmup,
        config.outer_steps,
        config.final_learning_rate,
    )
    adamw = optax.adamw(schedule, b1=0.9, b2=0.999, eps=1e-8, weight_decay=config.weight_decay)
    clipped = optax.chain(optax.clip_by_global_norm(config.global_clip), adamw)
    return optax.apply_if_finite(clipped, max_consecutive_errors=config.outer_steps)


@functools.partial(jax.jit, static_argnums=0)
def begin(config: MetaConfig, families: Families, theta: Weights) -> OuterState:
    """Return theta as it starts, with fresh trajectories."""
    keys = jax.random.split(jax.random.key(config.seed), len(families))
    begin = config.estimator.begin
    trajectories = []
    for family, key in zip(families, keys, strict=True):
        trajectories.append(begin(config.inner, family, theta, key))
    optimizer = outer_optimizer(config).init(theta)
    return OuterState(theta, optimizer, trajectories, jnp.zeros((), jnp.int32))


@functools.partial(jax.jit, static_argnums=0)
def outer_step(
    config: MetaConfig, families: Families, state: OuterState
) -> tuple[OuterState, dict[str, jax.Array]]:
    """Unroll all trajectories by one truncation and update theta."""
    step_key = jax.random.fold_in(jax.random.key(config.seed + 1), state.step)
    keys = jax.random.split(step_key, len(families))
    progress = state.step / max(1, config.outer_steps - 1)
    estimate, estimates = config.estimator.estimate, []
    for family, trajectories, key in zip(families, state.estimator, keys, strict=True):
        estimates.append(estimate(config.inner, family, state.theta, trajectories, key, progress))
    gradients = [e.gradient for e in estimates]
    gradient = jax.tree.map(lambda *g: sum(g) / len(g), *gradients)
    gradient = config.inner.optimizer.mask_frozen(gradient)
    gradient = project(config.inner.spec, gradient) if config.odd else gradient
    updates, new = outer_optimizer(config).update(gradient, state.optimizer, state.theta)
    optimizer: Any = new
    theta: Any = optax.apply_updates(state.theta, updates)
    metrics = {
        "meta_loss": sum(e.loss for e in estimates) / len(estimates),
        "gradient_norm": optax.tree.norm(gradient),
        "dropped": sum(e.dropped for e in estimates),
        "skipped": optimizer.total_notfinite,
    }
    return OuterState(theta, optimizer, [e.state for e in estimates], state.step + 1), metrics


def run(
    config: MetaConfig, families: Families, directory: Path, every_seconds: float = 60.0
) -> Iterator[Metrics]:
    """Meta-train, yielding the metrics of each outer step.

    `directory` holds the checkpoint and the metrics. A run that was killed, at whatever moment,
    resumes from its last checkpoint and ends at the theta that it would have had, on the same
    devices bit for bit. Checkpoints are written every `every_seconds`, at the end, and, with one
    process, when the loop is interrupted or closed. Trajectories are sharded over all devices of
    all processes.

    Raises:
        InputError: there is no theta to start from, `directory` holds a run of another
            configuration, the trajectories do not divide over the devices, or an unroll is longer
            than the shortest horizon.
    """
    devices = Devices(config.estimator.trajectories)
    theta = start(config.start, config.seed, config.inner)
    theta = project(config.inner.spec, theta) if config.odd else theta
    first = begin(config, tuple(families), jax.tree.map(jnp.asarray, theta))
    checkpoint = Checkpoint(directory, config, families)
    state, elapsed = checkpoint.restore(first)
    devices.agree_on(
        state.step,
        f"the processes found different runs in {directory}; give a folder that they share",
    )
    state, families = devices.place(state), devices.replicate(tuple(families))
    began = saved = time.monotonic()
    try:
        for step in range(int(state.step), config.outer_steps):
            new_state, values = outer_step(config, families, state)
            # `item` waits for the devices.
            numbers = {name: value.item() for name, value in values.items()}
            now = time.monotonic()
            metrics = Metrics(step, **numbers, seconds=elapsed + now - began)
            # Log before advancing: extra lines are dropped on resume, missing ones are lost.
            checkpoint.record(metrics._asdict())
            state = new_state
            if devices.first_decides(now - saved > every_seconds):
                checkpoint.save(devices.gather(state), metrics.seconds)
                saved = now
            yield metrics
        checkpoint.save(devices.gather(state), elapsed + time.monotonic() - began)
        devices.wait()  # until the first process has written it
    except BaseException:  # interrupted, closed or failed
        # Of several processes, the others may never come to gather the state.
        if devices.processes == 1:
            checkpoint.save(devices.gather(state), elapsed + time.monotonic() - began)
        raise
