"""Celo2 with a theta: the rule on hidden matrices, AdamW on the rest at a tuned multiple."""

from __future__ import annotations

import functools

import optax

from celo2 import jax as celo2_jax
from celo2.evaluate.baselines.base import Baseline, Grid, Settings, schedule
from celo2.evaluate.baselines.muon import MULTIPLIERS
from celo2.theta import Theta

GRID = Grid((1e-3, 2e-3, 4e-3), tuple({"adamw_lr_multiplier": k} for k in MULTIPLIERS))


def celo2(theta: Theta) -> Baseline:
    """Return Celo2 with `theta`; all thetas of one spec share a compiled program."""
    build = functools.partial(_build, theta)
    return Baseline("celo2", build, GRID, variant=theta.spec, theta=theta)


def _build(theta: Theta, settings: Settings, steps: int) -> optax.GradientTransformationExtraArgs:
    return celo2_jax.celo2(
        schedule(settings["learning_rate"], steps),
        adamw_lr_multiplier=settings["adamw_lr_multiplier"],
        theta=theta,
    )
