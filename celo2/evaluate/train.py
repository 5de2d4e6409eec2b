"""One training run of a problem by one optimizer: the whole run is one compiled program."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from celo2.evaluate.baselines import Baseline, Settings
from celo2.evaluate.suites import Problem
from celo2.tasks.base import TaskFamily


@dataclasses.dataclass(frozen=True)
class Program:
    """What is compiled in."""

    baseline: Baseline
    steps: int


HELD_OUT_BATCHES = 32
"""Drawn alike for every run."""


class Arguments(NamedTuple):
    """What a compiled program is run on; seeds and settings may be batched by `jax.vmap`."""

    family: TaskFamily
    settings: Any
    extra: dict[str, Any]
    """Further arguments of the optimizer's `update`."""
    key: jax.Array


def train(problem: Problem, baseline: Baseline, settings: Settings, seed: int) -> dict[str, float]:
    """Train from the seed's weights on the seed's batches, the same for all optimizers.

    Returns:
        `loss`: mean over the held-out batches at the end; `train_loss`: mean over the last tenth
        of the steps.
    """
    theta = baseline.theta
    arguments = Arguments(
        problem.family,
        {name: jnp.float32(value) for name, value in settings.items()},
        {"weights": jax.tree.map(jnp.asarray, theta.weights)} if theta else {},
        jax.random.key(seed),
    )
    values = run(Program(baseline, problem.steps), arguments)
    return {name: float(value) for name, value in values.items()}


@functools.partial(jax.jit, static_argnums=0)
def run(program: Program, arguments: Arguments) -> dict[str, jax.Array]:
    """Run a program; the values are those that `train` returns."""
    family, settings, extra, key = arguments
    transform = program.baseline.build(settings, program.steps)
    task_key, params_key, batch_key = jax.random.split(key, 3)
    task = family.sample(task_key)
    params, model_state = family.init(params_key, task)
    value_and_grad = jax.value_and_grad(family.loss, has_aux=True)

    def step(carry: tuple[Any, Any, Any], key: jax.Array) -> tuple[tuple[Any, Any, Any], jax.Array]:
        params, model_state, state = carry
        (loss, model_state), grads = value_and_grad(params, model_state, task, key)
        updates, state = transform.update(grads, state, params, value=loss, **extra)
        return (jax.tree.map(jnp.add, params, updates), model_state, state), loss

    def held_out_loss(key: jax.Array) -> jax.Array:
        return family.evaluate(params, model_state, task, key)["loss"]

    first = params, model_state, transform.init(params)
    (params, model_state, _), losses = jax.lax.scan(
        step, first, jax.random.split(batch_key, program.steps)
    )
    keys = jax.random.split(jax.random.key(2**31 - 1), HELD_OUT_BATCHES)
    final = jax.lax.map(held_out_loss, keys).mean()
    return {"loss": final, "train_loss": losses[-(program.steps // 10) :].mean()}
