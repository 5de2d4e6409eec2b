"""A real run that is watched: a problem of a suite, trained by Celo2 with a probe per matrix."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from celo2 import rule
from celo2.evaluate.baselines import Baseline, Settings, celo2
from celo2.evaluate.inspect.probe import Directions, Probe, directions, probe
from celo2.evaluate.suites import Problem
from celo2.jax import route
from celo2.jax.transform import default_axes
from celo2.parameters.routing import CELO2
from celo2.parameters.views import MatrixView, matrix_views
from celo2.rule import Accumulators, Spec, Weights
from celo2.tasks.base import Params, TaskFamily
from celo2.theta import Theta


class Watched(NamedTuple):
    """What was seen of a run."""

    losses: np.ndarray
    """Training loss, (steps,)."""
    probes: dict[str, Probe]
    """Per matrix that the rule updates, arrays with a leading axis of steps."""
    singular_values: dict[str, tuple[np.ndarray, np.ndarray]]
    """Per matrix, of the direction before and after orthogonalization at the end of the run, over
    their RMS; descending."""

    def guard_rate(self, kappa: float, name: str) -> float:
        """Return the share of the updates of a matrix that a guard would push."""
        cosines = np.asarray(self.probes[name].momentum_cosines)[:, rule.MOMENTUM]
        return float(np.mean(~(cosines >= kappa)))


class Carry(NamedTuple):
    """What goes from step to step."""

    params: Params
    model_state: Any
    optimizer: Any
    accumulators: dict[str, Accumulators]


@dataclasses.dataclass(frozen=True)
class Program:
    """What is compiled in."""

    baseline: Baseline
    steps: int
    spec: Spec


class Arguments(NamedTuple):
    """What a compiled program is run on."""

    family: TaskFamily
    weights: Weights
    settings: Any
    key: jax.Array


def watch(problem: Problem, theta: Theta, settings: Settings, seed: int) -> Watched:
    """Train from the seed's weights on the seed's batches, and measure every update."""
    arguments = Arguments(
        problem.family,
        Weights(*map(jnp.asarray, theta.weights)),
        jax.tree.map(jnp.float32, dict(settings)),
        jax.random.key(seed),
    )
    program = Program(celo2(theta), problem.steps, theta.spec)
    losses, probes, last = _run(program, arguments)
    values = {}
    for name, each in last.items():
        values[name] = _singular_values(each.before), _singular_values(each.after)
    probes = jax.tree.map(np.asarray, probes)
    return Watched(np.asarray(losses), probes, values)


@functools.partial(jax.jit, static_argnums=0)
def _run(
    program: Program, arguments: Arguments
) -> tuple[jax.Array, dict[str, Probe], dict[str, Directions]]:
    family, weights, settings, key = arguments
    spec, transform = program.spec, program.baseline.build(settings, program.steps)
    task_key, params_key, batch_key = jax.random.split(key, 3)
    task = family.sample(task_key)
    params, model_state = family.init(params_key, task)
    value_and_grad = jax.value_and_grad(family.loss, has_aux=True)
    views = dict(_views(spec, params))

    def seen(carry: Carry, grads: Params) -> Iterator[tuple[str, Accumulators, Any, Any]]:
        """Yield (name, new accumulators, gradient, parameter) of each matrix."""
        for name, view in views.items():
            g, p = view.view(jnp, grads[name]), view.view(jnp, carry.params[name])
            yield name, rule.accumulate(jnp, spec, carry.accumulators[name], g), g, p

    def step(carry: Carry, key: jax.Array) -> tuple[Carry, tuple[jax.Array, dict[str, Probe]]]:
        (loss, model_state), grads = value_and_grad(carry.params, carry.model_state, task, key)
        accumulators, probes = {}, {}
        for name, new, g, p in seen(carry, grads):
            accumulators[name], probes[name] = new, probe(spec, weights, new, g, p)
        updates, optimizer = transform.update(
            grads, carry.optimizer, carry.params, value=loss, weights=weights
        )
        params = jax.tree.map(jnp.add, carry.params, updates)
        return Carry(params, model_state, optimizer, accumulators), (loss, probes)

    accumulators = {}
    for name, view in views.items():
        accumulators[name] = rule.init(jnp, spec, view.view(jnp, params[name]))
    first = Carry(params, model_state, transform.init(params), accumulators)
    *keys, last_key = jax.random.split(batch_key, program.steps + 1)
    carry, (losses, probes) = jax.lax.scan(step, first, jnp.stack(keys))
    _, grads = value_and_grad(carry.params, carry.model_state, task, last_key)
    last = {}
    for name, new, g, p in seen(carry, grads):
        last[name] = directions(spec, weights, new, g, p)
    return losses, probes, last


def _views(spec: Spec, params: Params) -> Iterator[tuple[str, MatrixView]]:
    """Yield the matrices that the rule updates; vectors under Celo2-base are not watched."""
    for each in route(params, spec.everywhere):
        shape = params[each.name].shape
        if each.rule == CELO2 and len(shape) > 1:
            (view,) = matrix_views(shape, default_axes(shape))
            yield each.name, view


def _singular_values(d: jax.Array) -> np.ndarray:
    """Return the singular values of a matrix, or of the first of a batch, over their RMS."""
    first = np.asarray(d, np.float64).reshape(-1, *d.shape[-2:])[0]
    values = np.linalg.svd(first, compute_uv=False)
    return values / np.sqrt(np.mean(values**2))
