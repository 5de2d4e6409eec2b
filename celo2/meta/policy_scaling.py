"""The learning rates and the weight decay of `total_steps=`, for networks of meta-training."""

from __future__ import annotations

import jax
import optax

from celo2.jax.learning_rates import resolve, scale_by_initial_weights, scale_by_width
from celo2.jax.optimizer import decaying, transforms
from celo2.jax.routing import rules
from celo2.theta import Theta


def as_total_steps(theta: Theta, total_steps: jax.Array) -> optax.GradientTransformation:
    """Scale updates of the rule and of Adam as `celo2(total_steps=total_steps, theta=theta)` does.

    The result is to be subtracted, as what it is given.

    Raises:
        InputError: theta has no policy.
    """
    policy = theta.required_policy()
    learning_rates = resolve(theta, None, total_steps, None, None)
    scaled = transforms(scale_by_width(policy), optax.identity(), learning_rates, decaying)
    return optax.chain(
        optax.partition(scaled, rules), scale_by_initial_weights(policy, rules), optax.scale(-1.0)
    )
