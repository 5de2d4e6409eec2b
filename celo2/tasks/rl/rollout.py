"""Rollouts: what a policy experiences, and how much better than expected its actions were."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from celo2.tasks.rl.actor_critic import Agent, chosen
from celo2.tasks.rl.environments import Actors, Environments, Outcome


class Decisions(NamedTuple):
    """Actions of a policy: (steps, n, ...) in a rollout, (rows, ...) in a batch."""

    observations: jax.Array
    actions: jax.Array
    log_probabilities: jax.Array
    """Of the actions, under the policy that took them."""
    values: jax.Array
    """As the agent estimated them then."""


def collect(
    environments: Environments, agent: Agent, actors: Actors, keys: jax.Array
) -> tuple[Actors, tuple[Decisions, Outcome]]:
    """Let the agent act for one step per key; the result is stacked to (steps, n, ...)."""

    def step(actors: Actors, key: jax.Array) -> tuple[Actors, tuple[Decisions, Outcome]]:
        action_key, environment_key = jax.random.split(key)
        observations = actors.observations
        log_policy = agent.log_policy(observations)
        actions = jax.random.categorical(action_key, log_policy)
        after, outcome = environments.step(environment_key, actors, actions)
        taken, values = chosen(log_policy, actions), agent.value(observations)
        return after, (Decisions(observations, actions, taken, values), outcome)

    return jax.lax.scan(step, actors, keys)


def advantages(
    outcome: Outcome, values: jax.Array, last_values: jax.Array, discount: float, decay: float
) -> jax.Array:
    """Estimate generalized advantages, Schulman et al. 2016, equation 16.

    Args:
        outcome: of each step, (steps, n).
        values: before each step, (steps, n).
        last_values: after the last step, (n,).
        discount: gamma.
        decay: lambda; 0 is one-step temporal difference, 1 the whole return.
    """
    remaining = discount * (1.0 - outcome.ended)
    next_values = jnp.concatenate([values[1:], last_values[None]])
    errors = outcome.rewards + remaining * next_values - values

    def back(
        advantage: jax.Array, step: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        error, remaining = step
        advantage = error + decay * remaining * advantage
        return advantage, advantage

    zeros = jnp.zeros_like(last_values)
    return jax.lax.scan(back, zeros, (errors, remaining), reverse=True)[1]
