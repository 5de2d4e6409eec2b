"""Muon with Nesterov momentum in float32, on the matrices that Celo2's routing gives to its rule.

Embeddings, vectors and head are on AdamW at a multiple of the learning rate, as under Celo2. The
update is scaled to an RMS of 1 like Celo2's, so that their learning rates mean the same.
"""

from __future__ import annotations

import itertools
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon
from optax.contrib._muon import scale_by_shape  # the RMS scaling is private in optax 0.2.8

from celo2.evaluate.baselines.base import Baseline, Grid, Settings, schedule
from celo2.jax import route

MULTIPLIERS = (5.0, 20.0)
"""Of the learning rate, for AdamW's part."""


def _build(settings: Settings, steps: int) -> optax.GradientTransformationExtraArgs:
    learning_rate = schedule(settings["learning_rate"], steps)

    def adamw_learning_rate(count: Any) -> Any:
        return settings["adamw_lr_multiplier"] * learning_rate(count)

    hidden = optax.chain(
        scale_by_muon(
            beta=settings["momentum"], nesterov=True, weight_dimension_numbers=_dimension_numbers
        ),
        scale_by_shape(_dimension_numbers, consistent_rms=1.0),
        optax.scale_by_learning_rate(learning_rate),
    )
    rest = optax.adamw(adamw_learning_rate, b1=0.9, b2=0.95, weight_decay=0.0)
    return optax.with_extra_args_support(optax.partition({"celo2": hidden, "adamw": rest}, _labels))


def _dimension_numbers(params: Any) -> Any:
    return jax.tree.map(lambda _: MuonDimensionNumbers(0, 1), params)


def _labels(params: Any) -> Any:
    rules = [route.rule for route in route(params)]
    return jax.tree.unflatten(jax.tree.structure(params), rules)


OTHERS = tuple(
    {"momentum": momentum, "adamw_lr_multiplier": multiplier}
    for momentum, multiplier in itertools.product((0.85, 0.9, 0.95), MULTIPLIERS)
)
MUON = Baseline("muon", _build, Grid((1e-3, 2e-3, 4e-3), OTHERS))
