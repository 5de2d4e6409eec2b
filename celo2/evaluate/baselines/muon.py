"""Muon in float32 on the matrices that Celo2's routing gives to its rule, AdamW on the rest.

Embeddings, vectors and head are on AdamW at a multiple of the learning rate, as under Celo2. The
update is scaled to an RMS of 1 like Celo2's, so that their learning rates mean the same, and a
kernel of four axes is read as the same matrix.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon
from optax.contrib._muon import (  # private in optax 0.2.8
    orthogonalize_via_newton_schulz,
    scale_by_shape,
)

from celo2.evaluate.baselines.base import (
    Baseline,
    Grid,
    Settings,
    combinations,
    decaying,
    schedule,
    weight_decay,
)
from celo2.jax import route
from celo2.jax.transform import default_axes

MULTIPLIERS = (5.0, 20.0)
"""Of the learning rate, for AdamW's part."""
AGES = (6.0, 49.0)
"""Mean ages in steps of the gradients in the two averages."""
SHARES = (0.44, 0.56)
"""Weights of the two averages in what is orthogonalized."""
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of Newton-Schulz: the default of `optax.contrib.muon`."""


def _build(settings: Settings, steps: int) -> optax.GradientTransformationExtraArgs:
    return _beside_adamw(muon_direction(settings["momentum"]), settings, steps)


def _build_two_averages(settings: Settings, steps: int) -> optax.GradientTransformationExtraArgs:
    return _beside_adamw(_of_rms_1(optax.chain(_two_averages(), _orthogonalize())), settings, steps)


def muon_direction(momentum: Any) -> optax.GradientTransformation:
    """Return Muon's updates of hidden matrices, of RMS 1."""
    muon = scale_by_muon(beta=momentum, nesterov=True, weight_dimension_numbers=_dimension_numbers)
    return _of_rms_1(muon)


def _of_rms_1(direction: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.chain(direction, scale_by_shape(_dimension_numbers, consistent_rms=1.0))


def _beside_adamw(
    direction: optax.GradientTransformation, settings: Settings, steps: int
) -> optax.GradientTransformationExtraArgs:
    """Return `direction` on hidden matrices, AdamW on the rest."""
    multiplier, decay = settings["adamw_lr_multiplier"], weight_decay(settings)
    hidden = optax.chain(
        direction,
        optax.add_decayed_weights(decay, decaying),
        optax.scale_by_learning_rate(schedule(settings, steps)),
    )
    # As under Celo2, the multiplier does not multiply weight decay.
    rest = optax.adamw(
        schedule(settings, steps, multiplier),
        b1=0.9,
        b2=0.95,
        weight_decay=decay / multiplier,
        mask=decaying,
    )
    return optax.with_extra_args_support(
        optax.partition({"celo2": hidden, "adamw": rest}, hidden_or_not)
    )


def _two_averages() -> optax.GradientTransformation:
    """Replace gradients by the weighted sum of two averages, free of the bias to zero."""
    averages = [optax.ema(age / (1 + age)) for age in AGES]

    def init(params: Any) -> Any:
        return [average.init(params) for average in averages]

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        means, new = [], []
        for average, old in zip(averages, state, strict=True):
            mean, after = average.update(updates, old)
            means.append(mean)
            new.append(after)
        return jax.tree.map(lambda a, b: SHARES[0] * a + SHARES[1] * b, *means), new

    return optax.GradientTransformation(init, update)


def _orthogonalize() -> optax.GradientTransformation:
    coefficients = jnp.array(COEFFICIENTS)

    def one(x: jax.Array) -> jax.Array:
        return orthogonalize_via_newton_schulz(x, coefficients, dimension_numbers=_numbers(x.shape))

    return optax.stateless(lambda updates, _: jax.tree.map(one, updates))


def _numbers(shape: tuple[int, ...]) -> MuonDimensionNumbers:
    axes = default_axes(shape)
    return MuonDimensionNumbers(axes.fan_in, axes.fan_out)


def _dimension_numbers(params: Any) -> Any:
    return jax.tree.map(lambda p: _numbers(p.shape), params)


def hidden_or_not(params: Any) -> Any:
    """Return the optimizer of each leaf, "celo2" for hidden matrices and "adamw" for the rest."""
    rules = [route.rule for route in route(params)]
    return jax.tree.unflatten(jax.tree.structure(params), rules)


OTHERS = combinations(momentum=(0.85, 0.9, 0.95), adamw_lr_multiplier=MULTIPLIERS)
LEARNING_RATES = (1e-3, 2e-3, 4e-3)
MUON = Baseline("muon", _build, Grid(LEARNING_RATES, OTHERS))
TWO_AVERAGES = Baseline(
    "muon-two-averages",
    _build_two_averages,
    Grid(LEARNING_RATES, combinations(adamw_lr_multiplier=MULTIPLIERS)),
)
