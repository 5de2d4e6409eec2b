"""Adam as purejaxrl runs PPO: clipped gradients, a learning rate that falls linearly to 0."""

from __future__ import annotations

import optax

from celo2.evaluate.baselines.base import Baseline, Grid, Settings

MAX_NORM = 0.5
"""Of the gradient of all parameters together."""
EPS = 1e-5


def ppo_adam(learning_rate: float) -> Baseline:
    """Return Adam at a published learning rate; nothing is tuned."""
    return Baseline("ppo-adam", _build, Grid(others=({"learning_rate": learning_rate},)))


def _build(settings: Settings, steps: int) -> optax.GradientTransformationExtraArgs:
    learning_rate = optax.linear_schedule(settings["learning_rate"], 0.0, steps)
    adam = optax.chain(optax.clip_by_global_norm(MAX_NORM), optax.adam(learning_rate, eps=EPS))
    return optax.with_extra_args_support(adam)
