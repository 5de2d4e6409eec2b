"""Muon under the policy of Celo2: how much of `total_steps=` is schedule, and how much the rule.

Its learning rates, decay and weight decay are those of `celo2_total_steps`; only the direction of
hidden matrices is Muon's.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Hashable

import optax

from celo2.evaluate.baselines.base import Baseline, Grid, Settings, decaying
from celo2.evaluate.baselines.muon import hidden_or_not, muon_direction
from celo2.jax.learning_rates import resolve, scale_by_initial_weights, scale_by_width
from celo2.policy import Policy
from celo2.theta import Theta

MOMENTUM = 0.85
"""Best over the validation problems when Muon is tuned there."""


def muon_total_steps(theta: Theta) -> Baseline:
    """Return Muon with the learning rates of theta's policy.

    Raises:
        InputError: theta has no policy.
    """
    settings = {**theta.required_policy().numbers(), "momentum": MOMENTUM}
    return Baseline("muon-total-steps", functools.partial(_build, theta), Grid((), (settings,)))


def _build(theta: Theta, settings: Settings, steps: int) -> optax.GradientTransformationExtraArgs:
    policy = Policy.of(settings)
    theta = dataclasses.replace(theta, policy=policy)
    learning_rates = resolve(theta, None, steps, None, None)
    tail = [
        learning_rates.add_weight_decay(decaying),
        optax.scale_by_learning_rate(learning_rates.base),
    ]
    adam = optax.scale_by_adam(b1=0.9, b2=0.95)
    transforms: dict[Hashable, optax.GradientTransformation] = {
        "celo2": optax.chain(muon_direction(settings["momentum"]), scale_by_width(policy), *tail),
        "adamw": optax.chain(adam, learning_rates.multiply, *tail),
    }
    scale = scale_by_initial_weights(policy, hidden_or_not)
    updates = optax.chain(optax.partition(transforms, hidden_or_not), scale)
    return optax.with_extra_args_support(updates)
