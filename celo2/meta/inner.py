"""The inner loop: one network in training under theta, and the unroll of many steps of it."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from celo2.errors import InputError
from celo2.meta.adam import Adam
from celo2.meta.learners import Baseline, Learner, Name, Rule, Run, Weights
from celo2.meta.policy_scaling import as_total_steps
from celo2.rule.spec import Spec
from celo2.schedule import warmup_cosine
from celo2.tasks.base import ModelState, Params, TaskFamily
from celo2.theta import load_theta


@dataclasses.dataclass(frozen=True)
class InnerLoop:
    """How networks are trained during meta-training, static under jit; defaults are the paper's."""

    learner: Name = "rule"
    """Which optimizer is meta-trained: Celo2's rule, Celo in its phases, or VeLO."""
    spec: Spec = Spec()
    """Of the rule."""
    lstm_width: int = 32
    """Of Celo's and VeLO's LSTM."""
    mlps: int = 16
    """MLPs in VeLO's bank."""
    learning_rate: tuple[float, float] = (1e-3, 1e-3)
    """Range of the peak learning rate, log-uniform, one draw per trajectory."""
    cosine: bool = False
    """Warm-up and cosine over the horizon, as users train, instead of a constant learning rate."""
    policy: str | None = None
    """Train networks with the learning rates and the weight decay of `total_steps=`, by the policy
    of this theta: its name or file. `learning_rate` is then a factor on their updates, around 1,
    and `adamw_lr_multiplier` is not read."""
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
        if self.policy is not None:
            self._check_policy()

    def _check_policy(self) -> None:
        """Raise InputError if something else sets what the policy does."""
        if self.cosine:
            raise InputError(
                f"the policy of {self.policy} has a schedule of its own; leave cosine off"
            )
        low, high = self.learning_rate
        if low < 0.1 or high > 10:
            raise InputError(
                f"learning_rate is from {low} to {high}, but with a policy it is a factor on its "
                "learning rates; give numbers around 1, such as 0.5 and 2"
            )
        if self.learner != "rule" or self.adam != "front-end":
            raise InputError(
                f"a policy is for Celo2's rule with the Adam that users have, and this run has "
                f"learner={self.learner!r}, adam={self.adam!r}; give 'rule' and 'front-end'"
            )

    @property
    def optimizer(self) -> Learner:
        """What updates the networks by theta."""
        if self.learner == "rule":
            multiplier = self.adamw_lr_multiplier if self.policy is None else 1.0
            return Rule(self.spec, multiplier, self.adam)
        return Baseline(self.learner, self.lstm_width, self.mlps)

    def scaling(self, horizon: jax.Array, step: jax.Array) -> optax.GradientTransformation:
        """Return what the policy makes of the learner's updates at a step of `horizon`."""
        if self.policy is None:
            return optax.identity()
        return as_total_steps(load_theta(self.policy), horizon, step, self.spec.everywhere)


class Trajectory(NamedTuple):
    """One network in training. It lives on across outer steps while theta changes."""

    task: Any
    params: Params
    model_state: ModelState
    statistics: Any
    scaling: Any
    """State of `InnerLoop.scaling`."""
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
    statistics = loop.optimizer.init(params)
    if loop.horizon_distribution == "uniform":
        horizon = jax.random.randint(horizon_key, (), loop.horizon[0], loop.horizon[1] + 1)
    else:
        horizon = jnp.round(_log_uniform(horizon_key, loop.horizon)).astype(jnp.int32)
    learning_rate = _log_uniform(learning_rate_key, loop.learning_rate)
    step = jnp.zeros((), jnp.int32)
    scaling = loop.scaling(horizon, step).init(params)
    return Trajectory(task, params, model_state, statistics, scaling, step, horizon, learning_rate)


def _log_uniform(key: jax.Array, bounds: tuple[float, float]) -> jax.Array:
    low, high = (jnp.log(jnp.float32(bound)) for bound in bounds)
    return jnp.exp(jax.random.uniform(key, (), minval=low, maxval=high))


def inner_step(
    loop: InnerLoop,
    family: TaskFamily,
    theta: Weights,
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
    run = Run(loss, trajectory.horizon)
    if loop.held_out:
        loss = family.evaluate(params, trajectory.model_state, task, held_out_key)["loss"]
    # 2. The update, of the size of the network, and new statistics. The old ones are kept for the
    # backward pass over theta alone.
    optimizer = loop.optimizer
    updates, statistics = optimizer.update(theta, params, statistics, grads, run)
    distance = jnp.zeros(())
    if imitate and isinstance(optimizer, Rule):
        distance = optimizer.distance_to_muon(params, updates, statistics, grads)
    # 3. Subtract it, at the learning rate of this step.
    progress = (trajectory.step + 0.5) / trajectory.horizon
    factor = warmup_cosine(progress) if loop.cosine else 1.0
    learning_rate = trajectory.learning_rate * factor
    by_policy = loop.scaling(trajectory.horizon, trajectory.step)
    updates, scaling = by_policy.update(updates, trajectory.scaling, params)
    params = jax.tree.map(lambda p, update: p - learning_rate * update, params, updates)
    weight = 2 * progress if loop.weighting == "linear" else jnp.ones(())
    after = trajectory._replace(
        params=params,
        model_state=model_state,
        statistics=statistics,
        scaling=scaling,
        step=trajectory.step + 1,
    )
    return after, Steps(clipped(loop, loss), weight, jnp.zeros((), bool), distance)


def unroll(
    loop: InnerLoop,
    family: TaskFamily,
    theta: Weights,
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
