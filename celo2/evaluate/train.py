"""One training run of a problem by one optimizer: the whole run is one compiled program."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from celo2.evaluate.baselines import TUNED, Settings
from celo2.evaluate.suites import Problem
from celo2.rule import Weights
from celo2.rule.spec import Spec
from celo2.tasks.base import TaskFamily
from celo2.theta import Theta

HELD_OUT_BATCHES = 32


def train(problem: Problem, optimizer: str, settings: Settings, seed: int, theta: Theta | None = None) -> dict[str, float]:
    """Train from the seed's weights on the seed's batches, the same for all optimizers.

    Returns:
        `loss`: mean over the held-out batches at the end; `train_loss`: mean over the last tenth
        of the steps.
    """
    spec = theta.spec if theta else None
    weights = Weights(*map(jnp.asarray, theta.weights)) if theta else None
    arguments = {name: jnp.float32(value) for name, value in settings.items()}
    values = _run(optimizer, spec, problem.steps, problem.family, arguments, weights, jax.random.key(seed))
    return {name: float(value) for name, value in values.items()}


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _run(
    optimizer: str,
    spec: Spec | None,
    steps: int,
    family: TaskFamily,
    settings: Any,
    weights: Weights | None,
    key: jax.Array,
) -> dict[str, jax.Array]:
    """Theta's numbers are an argument, so that all thetas of a spec share one compilation."""
    transform = TUNED[optimizer].build(settings, steps, Theta.random(0, spec) if spec else None)
    task_key, params_key, batch_key = jax.random.split(key, 3)
    task = family.sample(task_key)
    params, model_state = family.init(params_key, task)
    extra = {"weights": weights} if weights is not None else {}

    def step(carry: tuple[Any, Any, Any], key: jax.Array) -> tuple[tuple[Any, Any, Any], jax.Array]:
        params, model_state, state = carry
        value_and_grad = jax.value_and_grad(family.loss, has_aux=True)
        (loss, model_state), grads = value_and_grad(params, model_state, task, key)
        updates, state = transform.update(grads, state, params, **extra)
        return (jax.tree.map(jnp.add, params, updates), model_state, state), loss

    first = (params, model_state, transform.init(params))
    (params, model_state, _), losses = jax.lax.scan(step, first, jax.random.split(batch_key, steps))

    def held_out(key: jax.Array) -> jax.Array:
        return family.evaluate(params, model_state, task, key)["loss"]

    # The same held-out batches for every run.
    keys = jax.random.split(jax.random.key(2**31 - 1), HELD_OUT_BATCHES)
    final = jax.lax.map(held_out, keys).mean()
    return {"loss": final, "train_loss": losses[-(steps // 10) :].mean()}
