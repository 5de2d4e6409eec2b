"""Training runs of a problem by one optimizer: a whole run is one compiled program.

Learning rate, other settings, seed, data and learned numbers are arguments of it, so a sweep
compiles once per problem, optimizer and number of steps; or its runs are one program, side by side.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
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
    side_by_side: bool = False
    """Whether settings and keys are of several runs, along their first axes."""


CURVE_POINTS = 50
"""Means over equal stretches of the run, or all steps of a run that has no more."""
PROGRAMS = 4
"""Compiled programs that a process keeps."""


class Arguments(NamedTuple):
    """What a compiled program is run on."""

    family: TaskFamily
    settings: Any
    extra: dict[str, Any]
    """Further arguments of the optimizer's `update`."""
    key: jax.Array


SIDE_BY_SIDE = Arguments(None, 0, None, 0)  # type: ignore[arg-type]
"""Axes of runs that share data and learned numbers, for `jax.vmap`."""


def train(problem: Problem, baseline: Baseline, settings: Settings, seed: int) -> dict[str, Any]:
    """Train from the seed's weights on the seed's batches, the same for all optimizers.

    Returns:
        `loss`: mean over the held-out batches at the end; `train_loss`: mean over the last tenth
        of the steps; `metrics`: the other held-out metrics; `curve`: training losses, means over
        stretches; `parameters`; of the optimizer its `counts` and `state_bytes`; `seconds` of the
        run, and `compile_seconds` before it, 0 if the program was compiled already.
    """
    extra = _extra(baseline)
    arguments = Arguments(problem.family, _numbers(settings), extra, jax.random.key(seed))
    program = Program(baseline, problem.steps, problem.held_out_batches)
    values, compile_seconds, seconds = _timed(program, arguments)
    return {**_result(values), "seconds": seconds, "compile_seconds": compile_seconds}


def train_side_by_side(
    problem: Problem, baseline: Baseline, runs: Sequence[tuple[Settings, int]]
) -> list[dict[str, Any]]:
    """Train several runs of the same settings but for their values as one program.

    Args:
        problem: of all runs.
        baseline: of all runs.
        runs: settings and seed of each.

    Returns:
        What `train` returns of each, `seconds` being its part of the whole; and `side_by_side`, the
        number of runs.
    """
    settings, keys = [], []
    for each, seed in runs:
        settings.append(_numbers(each))
        keys.append(jax.random.key(seed))
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *settings)
    arguments = Arguments(problem.family, stacked, _extra(baseline), jnp.stack(keys))
    program = Program(baseline, problem.steps, problem.held_out_batches, side_by_side=True)
    values, compile_seconds, seconds = _timed(program, arguments)
    share = {"seconds": seconds / len(runs), "compile_seconds": compile_seconds / len(runs)}
    share = {name: round(value, 4) for name, value in share.items()}
    results = []
    for i in range(len(runs)):
        own = jax.tree.map(lambda x, i=i: x[i], values)
        results.append({**_result(own), **share, "side_by_side": len(runs)})
    return results


def _numbers(settings: Settings) -> dict[str, jax.Array]:
    return jax.tree.map(jnp.float32, dict(settings))


def _extra(baseline: Baseline) -> dict[str, Any]:
    if baseline.weights is None:
        return {}
    return {"weights": jax.tree.map(jnp.asarray, baseline.weights)}


def _timed(program: Program, arguments: Arguments) -> tuple[dict[str, Any], float, float]:
    """Return what a program gives, and the seconds to compile and to run it."""
    began = time.perf_counter()
    ready_program = compiled(program, arguments)
    ready = time.perf_counter()
    values = jax.tree.map(np.asarray, ready_program(arguments))
    ended = time.perf_counter()
    return values, round(ready - began, 4), round(ended - ready, 4)


def _result(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of one run as `train` does, but for its times."""
    values = dict(values)
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
        of the optimizer its `counts` and `state_bytes`; of several runs, each has a first axis.
    """
    one = functools.partial(_one_run, program)
    return jax.vmap(one, (SIDE_BY_SIDE,))(arguments) if program.side_by_side else one(arguments)


def _one_run(program: Program, arguments: Arguments) -> dict[str, Any]:
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
