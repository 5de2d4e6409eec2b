"""Handwritten optimizers of optax: Lion, SGD with momentum, schedule-free AdamW and Prodigy."""

from __future__ import annotations

from typing import Any, cast

import jax.numpy as jnp
import optax
from optax.contrib import prodigy, schedule_free_adamw, schedule_free_eval_params

from celo2.evaluate.baselines.base import (
    Baseline,
    Grid,
    Settings,
    combinations,
    decaying,
    schedule,
    weight_decay,
)
from celo2.schedule import WARMUP


def _lion(settings: Settings, steps: int) -> optax.GradientTransformationExtraArgs:
    lion = optax.lion(
        schedule(settings, steps),
        b1=settings["b1"],
        b2=settings["b2"],
        weight_decay=weight_decay(settings),
        mask=decaying,
    )
    return optax.with_extra_args_support(lion)


def _sgd(settings: Settings, steps: int) -> optax.GradientTransformationExtraArgs:
    sgd = optax.chain(
        optax.trace(settings["momentum"], nesterov=True),
        optax.add_decayed_weights(weight_decay(settings), decaying),
        optax.scale_by_learning_rate(schedule(settings, steps)),
    )
    return optax.with_extra_args_support(sgd)


def _schedule_free(settings: Settings, steps: int) -> optax.GradientTransformationExtraArgs:
    """Build it with warm-up and no decay of the learning rate, as it is meant to be used."""
    peak, warmup = settings["learning_rate"], settings.get("warmup", WARMUP)

    def learning_rate(count: Any) -> Any:
        return peak * jnp.minimum(1, (count + 0.5) / steps / warmup)

    return schedule_free_adamw(
        cast("float", learning_rate),  # optax 0.2.8 takes schedules, which its annotation lacks
        b1=settings["b1"],
        weight_decay=weight_decay(settings),
    )


def _prodigy(settings: Settings, steps: int) -> optax.GradientTransformationExtraArgs:
    return prodigy(
        schedule(settings, steps),
        (settings["b1"], settings["b2"]),
        weight_decay=weight_decay(settings),
        safeguard_warmup=True,  # the schedule begins with a warm-up
    )


LION = Baseline(
    "lion", _lion, Grid((2.5e-4, 5e-4, 1e-3), ({"b1": 0.9, "b2": 0.99}, {"b1": 0.95, "b2": 0.98}))
)
SGD = Baseline("sgd", _sgd, Grid((0.05, 0.1, 0.2), combinations(momentum=(0.9, 0.95, 0.8))))
SCHEDULE_FREE = Baseline(
    "schedule-free",
    _schedule_free,
    Grid((2e-3, 4e-3, 8e-3), combinations(b1=(0.9, 0.95, 0.98))),
    evaluated=schedule_free_eval_params,
)
PRODIGY = Baseline(
    "prodigy",
    _prodigy,
    Grid((0.5, 1.0, 2.0), ({"b1": 0.9, "b2": 0.999}, {"b1": 0.9, "b2": 0.99})),
)
PRODIGY_AS_PUBLISHED = Baseline(
    "prodigy", _prodigy, Grid(others=({"learning_rate": 1.0, "b1": 0.9, "b2": 0.999},))
)
"""At a learning rate of 1, as it is meant to be used: nothing to tune."""
