"""Proximal policy optimization as a task family: one `loss` is that of one minibatch.

Rollouts are collected inside `loss`, by the current weights, whenever the minibatches of the last
one are used up. Settings and details are those of purejaxrl's PPO (Lu et al. 2022) except for what
belongs to the optimizer: its gradient clipping, its epsilon, and its schedule.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from celo2.tasks.base import Metrics, Params
from celo2.tasks.rl import actor_critic
from celo2.tasks.rl.actor_critic import chosen
from celo2.tasks.rl.environments import Actors, Environments
from celo2.tasks.rl.rollout import Decisions, advantages, collect

setting = functools.partial(dataclasses.field, metadata={"static": True})


class Batch(NamedTuple):
    """A rollout, or some rows of it; time and environments are one axis."""

    decisions: Decisions
    advantages: jax.Array


class Episodes(NamedTuple):
    """The episodes that ended in a rollout."""

    total_return: jax.Array
    count: jax.Array


class State(NamedTuple):
    """What PPO carries from minibatch to minibatch."""

    step: jax.Array
    """Minibatches so far."""
    actors: Actors
    batch: Batch
    """The last rollout."""
    order: jax.Array
    """(minibatches of all epochs, rows of one): its rows in the order in which they are used."""
    episodes: Episodes
    """Of the last rollouts, (window,) each."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PPO:
    """PPO on an environment of gymnax. There is one task; runs differ by their keys."""

    environment: str = setting()
    """Its name in gymnax."""
    environments: int = setting(default=64)
    """Copies side by side."""
    horizon: int = setting(default=128)
    """Steps of each of them in a rollout."""
    epochs: int = setting(default=4)
    minibatches: int = setting(default=8)
    """Per epoch; each row of the rollout is in one of them."""
    width: int = setting(default=64)
    activation: str = setting(default="relu")
    discount: float = setting(default=0.99)
    decay: float = setting(default=0.95)
    """Lambda of the generalized advantages."""
    clip: float = setting(default=0.2)
    """How far ratios of probabilities, and values, are followed away from the rollout's."""
    value_weight: float = setting(default=0.5)
    entropy_weight: float = setting(default=0.01)
    window: int = setting(default=20)
    """Rollouts over which `evaluate` averages returns."""

    @property
    def rows(self) -> int:
        """Environment steps of a rollout."""
        return self.environments * self.horizon

    @property
    def uses(self) -> int:
        """Minibatches that are made of a rollout."""
        return self.epochs * self.minibatches

    def sample(self, key: jax.Array) -> tuple[()]:
        return ()

    def init(self, key: jax.Array, task: Any) -> tuple[Params, State]:
        params_key, actors_key = jax.random.split(key)
        environments = self._environments
        actors = environments.reset(actors_key)
        features = actors.observations.shape[1]
        params = actor_critic.init(params_key, features, self.width, environments.actions)
        shapes = jax.eval_shape(self._rollout, params, actors, actors_key)
        _, batch, order, _ = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
        zeros = jnp.zeros(self.window)
        return params, State(jnp.int32(0), actors, batch, order, Episodes(zeros, zeros))

    def loss(
        self, params: Params, state: State, task: Any, key: jax.Array
    ) -> tuple[jax.Array, State]:
        use = state.step % self.uses
        fixed = jax.lax.stop_gradient(params)
        # `step` is the same in all runs that `vmap` batches, so this stays a branch there.
        state = jax.lax.cond(
            use == 0, lambda state: self._collected(fixed, state, key), lambda state: state, state
        )
        rows = state.order[use]
        minibatch = jax.tree.map(lambda a: a[rows], state.batch)
        return self.minibatch_loss(params, minibatch), state._replace(step=state.step + 1)

    def evaluate(self, params: Params, state: State, task: Any, key: jax.Array) -> Metrics:
        """Return the mean return of the episodes that ended in the last rollouts, 0 if none did."""
        total, count = jax.tree.map(jnp.sum, state.episodes)
        mean = total / jnp.maximum(count, 1)
        return {"loss": -mean, "return": mean}

    def minibatch_loss(self, params: Params, batch: Batch) -> jax.Array:
        """Compute the clipped surrogate, Schulman et al. 2017, equation 9, with the sign turned.

        Advantages are normalized within the minibatch, and values are clipped as ratios are.
        """
        then, agent = batch.decisions, actor_critic.agent(params, self.activation)
        log_policy = agent.log_policy(then.observations)
        ratio = jnp.exp(chosen(log_policy, then.actions) - then.log_probabilities)
        a = (batch.advantages - batch.advantages.mean()) / (batch.advantages.std() + 1e-8)
        surrogate = jnp.minimum(ratio * a, jnp.clip(ratio, 1 - self.clip, 1 + self.clip) * a)
        entropy = -(jnp.exp(log_policy) * log_policy).sum(1)

        targets = then.values + batch.advantages
        change = agent.value(then.observations) - then.values
        errors = then.values + change - targets
        clipped_errors = then.values + jnp.clip(change, -self.clip, self.clip) - targets
        value_loss = 0.5 * jnp.maximum(jnp.square(errors), jnp.square(clipped_errors))
        loss = self.value_weight * value_loss - surrogate - self.entropy_weight * entropy
        return loss.mean()

    def _collected(self, params: Params, state: State, key: jax.Array) -> State:
        """Return the state with a new rollout, by `params`."""
        actors, batch, order, now = self._rollout(params, state.actors, key)
        slot = state.step // self.uses % self.window
        episodes = jax.tree.map(lambda last, new: last.at[slot].set(new), state.episodes, now)
        return State(state.step, actors, batch, order, episodes)

    def _rollout(
        self, params: Params, actors: Actors, key: jax.Array
    ) -> tuple[Actors, Batch, jax.Array, Episodes]:
        steps_key, order_key = jax.random.split(key)
        agent = actor_critic.agent(params, self.activation)
        keys = jax.random.split(steps_key, self.horizon)
        actors, (decisions, outcome) = collect(self._environments, agent, actors, keys)
        last_values = agent.value(actors.observations)
        gae = advantages(outcome, decisions.values, last_values, self.discount, self.decay)
        ended = outcome.ended.astype(jnp.float32)
        episodes = Episodes((outcome.returns * ended).sum(), ended.sum())

        batch = jax.tree.map(lambda a: a.reshape(self.rows, *a.shape[2:]), Batch(decisions, gae))
        epoch_keys = jax.random.split(order_key, self.epochs)
        order = jax.vmap(lambda key: jax.random.permutation(key, self.rows))(epoch_keys)
        return actors, batch, order.reshape(self.uses, -1), episodes

    @property
    def _environments(self) -> Environments:
        return Environments(self.environment, self.environments)
