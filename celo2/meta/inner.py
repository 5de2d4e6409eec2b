"""The inner loop: one network in training under theta, and the unroll of many steps of it."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from celo2 import rule
from celo2.errors import InputError
from celo2.jax.newton_schulz import orthogonalize
from celo2.jax.routing import rules
from celo2.jax.transform import default_axes
from celo2.meta.adam import ADAMS, Adam
from celo2.parameters.routing import ADAMW
from celo2.parameters.views import MatrixView, matrix_views
from celo2.rule.spec import Spec
from celo2.schedule import warmup_cosine
from celo2.tasks.base import ModelState, Params, TaskFamily


@dataclasses.dataclass(frozen=True)
class InnerLoop:
    """How networks are trained during meta-training, static under jit; defaults are the paper's."""

    spec: Spec = Spec()
    learning_rate: tuple[float, float] = (1e-3, 1e-3)
    """Range of the peak learning rate, log-uniform, one draw per trajectory."""
    cosine: bool = False
    """Warm-up and cosine over the horizon, as users train, instead of a constant learning rate."""
    adamw_lr_multiplier: float = 20.0
    """Learning rate of Adam on vectors over that of the rule on matrices."""
    adam: Adam = "published"
    """The authors' Adam has no bias correction and its epsilon inside the root; that of the front
    end, `celo2.jax.celo2`, is AdamW's."""
    horizon: tuple[int, int] = (100, 2000)
    """Inner steps of a trajectory; then it starts anew."""
    horizon_distribution: Literal["log-uniform", "uniform"] = "log-uniform"
    """How a trajectory's horizon is drawn from its range."""
    staggered: bool = True
    """Start trajectories at step counters of their own, so that they do not all end at once."""
    weighting: Literal["uniform", "linear"] = "uniform"
    """Weight of a step in the meta-loss over the horizon: all equal, or growing from 0 to 2."""
    held_out: bool = False
    """Take the meta-loss on batches that the family holds out, not on the training batches."""
    loss_ceiling: float = 1.5 * 2.302585
    """Where the meta-loss of a step is clipped, 1.5 ln(classes): divergence is bad, not infinitely
    so."""

    def __post_init__(self) -> None:
        for name, (low, high) in (("learning_rate", self.learning_rate), ("horizon", self.horizon)):
            if not 0 < low <= high:
                raise InputError(
                    f"{name} is from {low} to {high}; give two numbers above 0, the lower one first"
                )


class Trajectory(NamedTuple):
    """One network in training. It lives on across outer steps while theta changes."""

    task: Any
    params: Params
    model_state: ModelState
    statistics: dict[str, Any]
    step: jax.Array
    horizon: jax.Array
    learning_rate: jax.Array


class Steps(NamedTuple):
    """What an unroll reports of each inner step; leading axis (steps,)."""

    loss: jax.Array
    """Before the update, on the training batch or on one held out; clipped: see `clipped`."""
    weight: jax.Array
    """Of the step in the meta-loss."""
    ended: jax.Array
    """Whether the trajectory that the unroll began with had ended before this step."""
    distance_to_muon: jax.Array
    """1 - cosine between the rule's update and Muon's, mean over matrices; 0 unless asked for."""


def start(loop: InnerLoop, family: TaskFamily, key: jax.Array) -> Trajectory:
    """Start a network on a task drawn from the family."""
    task_key, params_key, horizon_key, learning_rate_key = jax.random.split(key, 4)
    task = family.sample(task_key)
    params, model_state = family.init(params_key, task)
    statistics = initial_statistics(loop, params)
    if loop.horizon_distribution == "uniform":
        horizon = jax.random.randint(horizon_key, (), loop.horizon[0], loop.horizon[1] + 1)
    else:
        horizon = jnp.round(_log_uniform(horizon_key, loop.horizon)).astype(jnp.int32)
    learning_rate = _log_uniform(learning_rate_key, loop.learning_rate)
    step = jnp.zeros((), jnp.int32)
    return Trajectory(task, params, model_state, statistics, step, horizon, learning_rate)


def _log_uniform(key: jax.Array, bounds: tuple[float, float]) -> jax.Array:
    low, high = (jnp.log(jnp.float32(bound)) for bound in bounds)
    return jnp.exp(jax.random.uniform(key, (), minval=low, maxval=high))


def initial_statistics(loop: InnerLoop, params: Params) -> dict[str, Any]:
    """Initialize the statistics of each parameter: `Accumulators` of the rule, or Adam's state."""
    routes = rules(params, loop.spec.everywhere)
    statistics: dict[str, Any] = {}
    for name, p in params.items():
        if routes[name] == ADAMW:
            # 8 bytes per element; under the rule it is 16, three momenta and V.
            statistics[name] = ADAMS[loop.adam].init(p)
        else:
            part = _view(p)
            statistics[name] = rule.init(jnp, loop.spec, part.view(jnp, p), part.is_vector)
    return statistics


def _view(p: jax.Array) -> MatrixView:
    """Return how the rule reads a parameter: as it does for users."""
    (part,) = matrix_views(p.shape, default_axes(p.shape))
    return part


def network_update(
    loop: InnerLoop, theta: rule.Weights, params: Params, statistics: dict, grads: Params
) -> tuple[Params, dict]:
    """Return the updates of all parameters, before the learning rate, and their new statistics."""
    updates, new = {}, {}
    for name, p in params.items():
        old = statistics[name]
        if not isinstance(old, rule.Accumulators):
            update, new[name] = ADAMS[loop.adam].update(grads[name], old)
            updates[name] = loop.adamw_lr_multiplier * update
        else:
            part = _view(p)
            is_orthogonal = loop.spec.newton_schulz and not part.is_vector
            newton_schulz = orthogonalize if is_orthogonal else None
            # Under jit the views are fused with what reads them; no transposed copy is stored.
            g, w = part.view(jnp, grads[name]), part.view(jnp, p)
            update, new[name] = rule.update(jnp, loop.spec, theta, old, g, w, newton_schulz)
            updates[name] = part.inverse(jnp, update)
    return updates, new


def distance_to_muon(
    loop: InnerLoop, params: Params, updates: Params, statistics: dict, grads: Params
) -> jax.Array:
    """Return 1 - cosine between the rule's updates and Muon's (Nesterov), mean over the matrices.

    Muon's momentum is that of the first decay.
    """
    spec, distances = loop.spec, []
    for name, p in params.items():
        part, new = _view(p), statistics[name]
        if not isinstance(new, rule.Accumulators) or part.is_vector:
            continue
        (m, *_), (decay, *_) = new.averages, spec.momentum_decays
        nesterov = decay * m + (1 - decay) * part.view(jnp, grads[name])
        # Stop the gradient through the expert, or theta could lower the distance by changing it.
        expert = jax.lax.stop_gradient(orthogonalize(jnp, spec, nesterov))
        u = part.view(jnp, updates[name])
        lengths = [jnp.sqrt(jnp.sum(x * x, (-2, -1)) + spec.normalize_epsilon) for x in (u, expert)]
        distances.append(1 - jnp.mean(jnp.sum(u * expert, (-2, -1)) / (lengths[0] * lengths[1])))
    return jnp.mean(jnp.stack(distances)) if distances else jnp.zeros(())


def inner_step(
    loop: InnerLoop,
    family: TaskFamily,
    theta: rule.Weights,
    trajectory: Trajectory,
    key: jax.Array,
    imitate: bool,
) -> tuple[Trajectory, Steps]:
    """Train a network for one step; return the trajectory and the report of the step."""
    task, params, statistics = trajectory.task, trajectory.params, trajectory.statistics
    batch_key, held_out_key = jax.random.split(key)
    # 1. Gradient on a training batch; a batch is drawn here and not kept.
    value_and_grad = jax.value_and_grad(family.loss, has_aux=True)
    (loss, model_state), grads = value_and_grad(params, trajectory.model_state, task, batch_key)
    if loop.held_out:
        loss = family.evaluate(params, trajectory.model_state, task, held_out_key)["loss"]
    # 2. The update of the rule, of the size of the network, and new accumulators. The old ones are
    # kept for the backward pass over theta alone.
    updates, statistics = network_update(loop, theta, params, statistics, grads)
    distance = jnp.zeros(())
    if imitate:
        distance = distance_to_muon(loop, params, updates, statistics, grads)
    # 3. Subtract it, at the learning rate of this step.
    progress = (trajectory.step + 0.5) / trajectory.horizon
    factor = warmup_cosine(progress) if loop.cosine else 1.0
    learning_rate = trajectory.learning_rate * factor
    params = jax.tree.map(lambda p, update: p - learning_rate * update, params, updates)
    weight = 2 * progress if loop.weighting == "linear" else jnp.ones(())
    after = trajectory._replace(
        params=params, model_state=model_state, statistics=statistics, step=trajectory.step + 1
    )
    return after, Steps(clipped(loop, loss), weight, jnp.zeros((), bool), distance)


def unroll(
    loop: InnerLoop,
    family: TaskFamily,
    theta: rule.Weights,
    trajectory: Trajectory,
    fresh: Trajectory,
    keys: jax.Array,
    imitate: bool = False,
) -> tuple[Steps, Trajectory]:
    """Take as many inner steps as there are keys; return what each reports and the trajectory.

    A trajectory at its horizon is replaced by `fresh`, even in the middle of the unroll; none may
    end twice in one. With `imitate`, the distance to Muon is reported too.
    """

    # Each step is rematerialized in the backward pass: keeping only the networks and their
    # accumulators is both smaller and, on a CPU, faster than keeping the channels.
    @jax.checkpoint
    def body(
        carry: tuple[Trajectory, jax.Array], key: jax.Array
    ) -> tuple[tuple[Trajectory, jax.Array], Steps]:
        trajectory, ended = carry
        ends = trajectory.step >= trajectory.horizon
        # A select instead of a branch: under vmap other trajectories continue. It reads one fresh
        # network per trajectory, which is made once per unroll.
        trajectory = jax.tree.map(lambda new, old: jnp.where(ends, new, old), fresh, trajectory)
        ended = ended | ends
        after, steps = inner_step(loop, family, theta, trajectory, key, imitate)
        return (after, ended), steps._replace(ended=ended)

    # The scan stores one trajectory per step for the backward pass: 20 bytes per element of the
    # network in float32 (weights, three momenta, V) times the length of the unroll.
    (after, _), steps = jax.lax.scan(body, (trajectory, jnp.zeros((), bool)), keys)
    return steps, after


def clipped(loop: InnerLoop, losses: jax.Array) -> jax.Array:
    """Clip losses to [0, ceiling]; those that are not a number become the ceiling."""
    return jnp.clip(jnp.nan_to_num(losses, nan=loop.loss_ceiling), 0, loop.loss_ceiling)
