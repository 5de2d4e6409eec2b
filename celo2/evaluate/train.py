"""One training run of a problem by one optimizer: the whole run is one compiled program.

Learning rate, other settings, seed, data and learned numbers are arguments of it, so a sweep
compiles once per problem, optimizer and number of steps.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from celo2.evaluate.baselines import Baseline, Settings
from celo2.evaluate.suites import Problem
from celo2.tasks.base import TaskFamily


@dataclasses.dataclass(frozen=True)
class Program:
    """What is compiled in."""

    baseline: Baseline
    steps: int
    held_out_batches: int


CURVE_POINTS = 50
"""Means over equal stretches of the run, or all steps of a run that has no more."""
PROGRAMS = 4
"""Compiled programs that a process keeps."""


class Arguments(NamedTuple):
    """What a compiled program is run on; seeds and settings may be batched by `jax.vmap`."""

    family: TaskFamily
    settings: Any
    extra: dict[str, Any]
    """Further arguments of the optimizer's `update`."""
    key: jax.Array


def train(problem: Problem, baseline: Baseline, settings: Settings, seed: int) -> dict[str, Any]:
    """Train from the seed's weights on the seed's batches, the same for all optimizers.

    Returns:
        `loss`: mean over the held-out batches at the end; `train_loss`: mean over the last tenth
        of the steps; `metrics`: the other held-out metrics; `curve`: training losses, means over
        stretches; `parameters`; of the optimizer its `counts` and `state_bytes`; `seconds` of the
        run, and `compile_seconds` before it, 0 if the program was compiled already.
    """
    weights = baseline.weights
    arguments = Arguments(
        problem.family,
        jax.tree.map(jnp.float32, dict(settings)),
        {} if weights is None else {"weights": jax.tree.map(jnp.asarray, weights)},
        jax.random.key(seed),
    )
    began = time.perf_counter()
    program = compiled(Program(baseline, problem.steps, problem.held_out_batches), arguments)
    ready = time.perf_counter()
    values = jax.tree.map(np.asarray, program(arguments))
    ended = time.perf_counter()
    losses = values.pop("losses")
    stretches = np.array_split(losses, min(CURVE_POINTS, len(losses)))
    metrics = jax.tree.map(float, values.pop("metrics"))
    return {
        "loss": metrics.pop("loss"),
        "train_loss": float(values["train_loss"]),
        "metrics": metrics,
        "curve": [float(stretch.mean()) for stretch in stretches],
        "parameters": int(values["parameters"]),
        "counts": jax.tree.map(int, values["counts"]),
        "state_bytes": int(values["state_bytes"]),
        "seconds": round(ended - ready, 2),
        "compile_seconds": round(ready - began, 2),
    }


def compiled(program: Program, arguments: Arguments) -> Any:
    """Return the compiled program for arguments of these shapes, the same one for equal shapes."""
    leaves, structure = jax.tree.flatten(arguments)
    shapes = tuple(jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)) for x in leaves)
    return _compile(program, structure, shapes)


@functools.lru_cache(maxsize=PROGRAMS)
def _compile(program: Program, structure: Any, shapes: tuple[Any, ...]) -> Any:
    return run.lower(program, structure.unflatten(shapes)).compile()


@functools.partial(jax.jit, static_argnums=0)
def run(program: Program, arguments: Arguments) -> dict[str, Any]:
    """Run a program.

    Returns:
        `losses` (steps,) of training, `train_loss`, held-out `metrics` (means), `parameters`, and
        of the optimizer its `counts` and `state_bytes`.
    """
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

    first = params, model_state, transform.init(params)
    (params, model_state, state), losses = jax.lax.scan(
        step, first, jax.random.split(batch_key, program.steps)
    )
    evaluated = program.baseline.evaluated(state, params)

    def held_out(key: jax.Array) -> dict[str, jax.Array]:
        return family.evaluate(evaluated, model_state, task, key)

    keys = jax.random.split(jax.random.key(2**31 - 1), program.held_out_batches)
    return {
        "losses": losses,
        "train_loss": losses[-max(1, program.steps // 10) :].mean(),
        "metrics": jax.tree.map(jnp.mean, jax.lax.map(held_out, keys)),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "counts": program.baseline.report(state),
        "state_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(state)),
    }
