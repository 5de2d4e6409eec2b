"""Environments of gymnax side by side, and the returns of the episodes that run in them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from celo2.errors import InputError


class Actors(NamedTuple):
    """n environments between two steps; all arrays have n as their first axis."""

    states: Any
    observations: jax.Array
    """(n, features)"""
    returns: jax.Array
    """(n,) sum of the rewards of the running episode."""


class Outcome(NamedTuple):
    """What a step of n environments gave; all arrays are (n,)."""

    rewards: jax.Array
    ended: jax.Array
    """Whether the episode ended, in a terminal state or by the time limit. As in purejaxrl the two
    are not told apart: nothing is added for what would have come after the limit."""
    returns: jax.Array
    """Sum of the rewards of the episode up to and including this step."""


class Environments:
    """Pure functions over n copies of an environment; where an episode ends, the next starts.

    Raises:
        InputError: gymnax has no environment of this name.
    """

    def __init__(self, name: str, count: int) -> None:
        import gymnax  # of the extra `rl`, and slow to import

        if name not in gymnax.registered_envs:
            raise InputError(
                f"gymnax has no environment {name!r}: take one of "
                f"{', '.join(gymnax.registered_envs)}"
            )
        self._environment, self._params = gymnax.make(name)
        self._count = count

    @property
    def actions(self) -> int:
        """Number of actions to choose from."""
        return self._environment.num_actions

    def reset(self, key: jax.Array) -> Actors:
        """Start an episode in each environment."""
        keys = jax.random.split(key, self._count)
        observations, states = jax.vmap(self._environment.reset, (0, None))(keys, self._params)
        return Actors(states, self._flat(observations), jnp.zeros(self._count))

    def step(self, key: jax.Array, actors: Actors, actions: jax.Array) -> tuple[Actors, Outcome]:
        """Take one action (n,) in each environment."""
        keys = jax.random.split(key, self._count)
        step = jax.vmap(self._environment.step, (0, 0, 0, None))
        observations, states, rewards, terminated, truncated, _ = step(
            keys, actors.states, actions, self._params
        )
        returns, ended = actors.returns + rewards, terminated | truncated
        after = Actors(states, self._flat(observations), jnp.where(ended, 0.0, returns))
        return after, Outcome(rewards, ended, returns)

    def _flat(self, observations: jax.Array) -> jax.Array:
        return observations.reshape(self._count, -1)
