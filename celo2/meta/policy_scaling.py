"""The learning rates and the weight decay of `total_steps=`, for networks of meta-training."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import optax

from celo2.jax.learning_rates import resolve, scale_by_initial_weights, scale_by_width
from celo2.jax.optimizer import decaying, transforms
from celo2.jax.routing import rules
from celo2.parameters.routing import HIDDEN
from celo2.theta import Theta


def as_total_steps(
    theta: Theta, total_steps: jax.Array, step: jax.Array, everywhere: bool
) -> optax.GradientTransformation:
    """Scale updates of the rule and of Adam as `celo2(total_steps=total_steps, theta=theta)` does.

    Args:
        theta: its policy is used.
        total_steps: of the run.
        step: the step whose learning rate is taken, from 0; networks begin at steps of their own,
            so the state does not count.
        everywhere: whether the rule updates every parameter.

    Returns:
        A transformation to updates that are to be subtracted, as those that it is given. Its state
        is the policy's factor for the initial weights.

    Raises:
        InputError: theta has no policy.
    """
    policy = theta.required_policy()
    learning_rate = policy.peak(jnp, HIDDEN, total_steps) * policy.factor(jnp, step, total_steps)
    learning_rates = resolve(theta, None, total_steps, None, None)._replace(base=learning_rate)
    labels = functools.partial(rules, everywhere=everywhere)
    scaled = transforms(scale_by_width(policy), optax.identity(), learning_rates, decaying)
    return optax.chain(
        optax.partition(scaled, labels), scale_by_initial_weights(policy, labels), optax.scale(-1.0)
    )
