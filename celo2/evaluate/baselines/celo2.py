"""Celo2 with a theta: the rule on hidden matrices, AdamW on the rest at a tuned multiple."""

from __future__ import annotations

import functools

import optax

from celo2 import jax as celo2_jax
from celo2.evaluate.baselines.base import Baseline, Grid, Settings, schedule, weight_decay
from celo2.evaluate.baselines.muon import LEARNING_RATES, MULTIPLIERS
from celo2.evaluate.records import theta_key
from celo2.theta import Theta

GRID = Grid(LEARNING_RATES, tuple({"adamw_lr_multiplier": k} for k in MULTIPLIERS))


def celo2(theta: Theta) -> Baseline:
    """Return Celo2 with `theta`; all thetas of one spec share a compiled program."""
    build = functools.partial(_build, theta)
    return Baseline("celo2", build, GRID, theta.spec, theta.weights, theta_key(theta))


def _build(theta: Theta, settings: Settings, steps: int) -> optax.GradientTransformationExtraArgs:
    return celo2_jax.celo2(
        schedule(settings, steps),
        weight_decay=weight_decay(settings),
        adamw_lr_multiplier=settings["adamw_lr_multiplier"],
        theta=theta,
    )
