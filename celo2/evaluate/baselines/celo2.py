"""Celo2 with a theta: tuned, with AdamW at a multiple of its learning rate, and tuning-free."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import optax

from celo2 import jax as celo2_jax
from celo2.evaluate.baselines.base import (
    Baseline,
    Grid,
    Settings,
    combinations,
    schedule,
    weight_decay,
)
from celo2.evaluate.baselines.muon import LEARNING_RATES, MULTIPLIERS
from celo2.evaluate.records import theta_key
from celo2.policy import Policy
from celo2.theta import Theta

GRID = Grid(LEARNING_RATES, combinations(adamw_lr_multiplier=MULTIPLIERS))


def celo2(theta: Theta) -> Baseline:
    """Return Celo2 with `theta`; all thetas of one spec share a compiled program."""
    build = functools.partial(_build, theta)
    return Baseline(
        "celo2", build, GRID, theta.spec, theta.weights, theta_key(theta), report=_report
    )


def _build(theta: Theta, settings: Settings, steps: int) -> optax.GradientTransformationExtraArgs:
    return celo2_jax.celo2(
        schedule(settings, steps),
        weight_decay=weight_decay(settings),
        adamw_lr_multiplier=settings["adamw_lr_multiplier"],
        theta=theta,
        guard=settings.get("guard"),
    )


def celo2_total_steps(theta: Theta, policy: Policy | None = None) -> Baseline:
    """Return Celo2 by `total_steps`: one configuration, that of theta's policy or of another.

    The numbers of the policy are the settings of its runs, so records tell one policy from another
    and all of them share a compiled program.

    Raises:
        InputError: theta has no policy, and none is given.
    """
    policy = theta.required_policy() if policy is None else policy
    grid = Grid((), (policy.numbers(),))
    build = functools.partial(_build_total_steps, theta)
    name = "celo2-total-steps"
    return Baseline(name, build, grid, theta.spec, theta.weights, theta_key(theta))


def _build_total_steps(
    theta: Theta, settings: Settings, steps: int
) -> optax.GradientTransformationExtraArgs:
    theta = dataclasses.replace(theta, policy=Policy.of(settings))
    return celo2_jax.celo2(total_steps=steps, theta=theta)


def _report(state: Any) -> dict[str, Any]:
    """Return how many updates the guard has pushed, and how many leaves the rule updates."""
    leaves = jax.tree.leaves(optax.tree.get(state, "averages"))
    return {"pushed": optax.tree.get(state, "pushed"), "leaves": len(leaves)}
