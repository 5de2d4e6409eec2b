"""The inner loop: one network in training under theta, and the unroll of many steps of it."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from celo2 import rule
from celo2.spec import Spec
from celo2.tasks.base import Params, TaskFamily
from celo2.views import MatrixAxes, pieces

ADAM_DECAYS = (0.9, 0.95)
ADAM_EPSILON = 1e-8


@dataclasses.dataclass(frozen=True)
class InnerLoop:
    """How networks are trained during meta-training (static under jit). Defaults are the published ones."""

    spec: Spec = Spec()
    learning_rate: float = 1e-3
    """Constant over the horizon."""
    adam_multiplier: float = 20.0
    """Rate of Adam on vectors over that of the rule on matrices. Celo2-base has the rule on both."""
    horizon: tuple[int, int] = (100, 2000)
    """Inner steps of a trajectory, log-uniform; then it starts anew."""
    loss_ceiling: float = 1.5 * 2.302585
    """The meta-loss of a step is clipped here, 1.5 ln(classes): a network that diverged is bad, not infinitely bad."""


class Adam(NamedTuple):
    """Adam on a vector, without bias correction and with epsilon inside the root, as the reference meta-trains."""

    first: jax.Array
    second: jax.Array


class Trajectory(NamedTuple):
    """One network in training. It lives on across outer iterations while theta changes."""

    task: Any
    params: Params
    statistics: dict[str, rule.Accumulators | Adam]
    step: jax.Array
    horizon: jax.Array


def start(loop: InnerLoop, family: TaskFamily, key: jax.Array) -> Trajectory:
    """A fresh network on a task drawn from the family."""
    task_key, params_key, horizon_key = jax.random.split(key, 3)
    task = family.sample(task_key)
    params = family.init(params_key, task)
    statistics = {name: _statistics(loop, p) for name, p in params.items()}
    low, high = (jnp.log(bound) for bound in loop.horizon)
    horizon = jnp.exp(jax.random.uniform(horizon_key, (), minval=low, maxval=high)).astype(jnp.int32)
    return Trajectory(task, params, statistics, jnp.zeros((), jnp.int32), horizon)


def _statistics(loop: InnerLoop, p: jax.Array) -> rule.Accumulators | Adam:
    if loop.spec.orthogonalize and p.ndim < 2:
        return Adam(jnp.zeros_like(p), jnp.zeros_like(p))
    (part,) = pieces(p.shape, MatrixAxes())
    return rule.init(jnp, loop.spec, part.view(jnp, p), part.vector)


def inner_step(loop: InnerLoop, theta: rule.Weights, params: Params, statistics: dict, grads: Params) -> tuple[Params, dict]:
    """One update of all parameters."""
    new_params, new_statistics = {}, {}
    for name, p in params.items():
        old = statistics[name]
        if isinstance(old, Adam):
            step, new_statistics[name] = _adam(old, grads[name])
            step = loop.adam_multiplier * step
        else:
            (part,) = pieces(p.shape, MatrixAxes())
            orthogonalize = rule.orthogonalize if loop.spec.orthogonalize else None
            g, w = part.view(jnp, grads[name]), part.view(jnp, p)
            step, new_statistics[name] = rule.update(jnp, loop.spec, theta, old, g, w, orthogonalize)
            step = part.inverse(jnp, step)
        new_params[name] = p - loop.learning_rate * step
    return new_params, new_statistics


def _adam(old: Adam, g: jax.Array) -> tuple[jax.Array, Adam]:
    (b1, b2) = ADAM_DECAYS
    new = Adam(b1 * old.first + (1 - b1) * g, b2 * old.second + (1 - b2) * g * g)
    return new.first / jnp.sqrt(new.second + ADAM_EPSILON), new


def unroll(
    loop: InnerLoop, family: TaskFamily, theta: rule.Weights, trajectory: Trajectory, keys: jax.Array
) -> tuple[jax.Array, Trajectory]:
    """As many inner steps as there are keys: (training loss before each update (steps,), the trajectory after them).

    Each step is rematerialised in the backward pass: keeping only the networks and their accumulators is both smaller
    and, on a CPU, faster than keeping the channels.
    """

    @jax.checkpoint
    def body(carry: tuple[Params, dict], batch: Any) -> tuple[tuple[Params, dict], jax.Array]:
        params, statistics = carry
        loss, grads = jax.value_and_grad(family.loss)(params, trajectory.task, batch)
        return inner_step(loop, theta, params, statistics, grads), loss

    batches = jax.vmap(lambda key: family.batch(key, trajectory.task))(keys)
    (params, statistics), losses = jax.lax.scan(body, (trajectory.params, trajectory.statistics), batches)
    after = trajectory._replace(params=params, statistics=statistics, step=trajectory.step + len(keys))
    return losses, after


def clipped(loop: InnerLoop, losses: jax.Array) -> jax.Array:
    """The meta-loss of each step: the loss within [0, ceiling], the ceiling where it is not a number."""
    return jnp.clip(jnp.nan_to_num(losses, nan=loop.loss_ceiling), 0, loop.loss_ceiling)
