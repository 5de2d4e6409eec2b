"""The policy and the value function of PPO: two MLPs that share nothing, as in purejaxrl."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn.initializers import orthogonal

from celo2.tasks.base import Params

HIDDEN_SCALE, LOGITS_SCALE, VALUE_SCALE = math.sqrt(2), 0.01, 1.0
"""Of the orthogonal initialization. Small logits make the first policy nearly uniform."""
LAYERS = ("0", "1", "head")
ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu}


class Agent(NamedTuple):
    """A policy and a value function at fixed weights."""

    log_policy: Callable[[jax.Array], jax.Array]
    """Observations (n, features) -> logarithms of the probabilities (n, actions)."""
    value: Callable[[jax.Array], jax.Array]
    """Observations (n, features) -> estimated returns to come (n,)."""


def init(key: jax.Array, features: int, width: int, actions: int) -> Params:
    """Initialize both networks, features-width-width-outputs each."""
    actor_key, critic_key = jax.random.split(key)
    return {
        **_init("actor", actor_key, (features, width, width, actions), LOGITS_SCALE),
        **_init("critic", critic_key, (features, width, width, 1), VALUE_SCALE),
    }


def agent(params: Params, activation: str) -> Agent:
    """Return the agent of these weights."""
    act = ACTIVATIONS[activation]
    return Agent(
        lambda observations: jax.nn.log_softmax(_mlp("actor", params, observations, act)),
        lambda observations: _mlp("critic", params, observations, act)[:, 0],
    )


def chosen(log_policy: jax.Array, actions: jax.Array) -> jax.Array:
    """Return those (n,) of the actions (n,) among all (n, actions)."""
    return jnp.take_along_axis(log_policy, actions[:, None], axis=1)[:, 0]


def _init(name: str, key: jax.Array, widths: tuple[int, ...], last_scale: float) -> Params:
    params, scales = {}, (HIDDEN_SCALE, HIDDEN_SCALE, last_scale)
    for i, layer_key in enumerate(jax.random.split(key, 3)):
        layer = f"{name}.{LAYERS[i]}"
        params[f"{layer}.w"] = orthogonal(scales[i])(layer_key, widths[i : i + 2])
        params[f"{layer}.b"] = jnp.zeros(widths[i + 1])
    return params


def _mlp(
    name: str, params: Params, x: jax.Array, act: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    for layer in LAYERS[:-1]:
        x = act(x @ params[f"{name}.{layer}.w"] + params[f"{name}.{layer}.b"])
    return x @ params[f"{name}.head.w"] + params[f"{name}.head.b"]
