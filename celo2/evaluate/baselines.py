"""The optimizers that are compared, all as optax transformations, with the settings that are tuned for each.

All rates follow the same warm-up and cosine, and weight decay is 0 throughout. Muon and Celo2 share who moves what: the rule
on hidden matrices, AdamW at a multiple of the rate on embeddings, vectors and head. Muon's step is scaled to RMS 1 like
Celo2's, so that their rates mean the same.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon
from optax.contrib._muon import scale_by_shape

from celo2 import jax as celo2_jax
from celo2.schedule import warmup_cosine
from celo2.theta import Theta

Settings = dict[str, float]
"""Numbers that are tuned, `learning_rate` and others; all may be traced, so that one compilation serves a whole grid."""


@dataclasses.dataclass(frozen=True)
class Tuned:
    """An optimizer and the grid of its settings; rates are doubled and halved from the start until the best lies inside."""

    build: Callable[[Settings, int, Theta | None], optax.GradientTransformationExtraArgs]
    rates: tuple[float, ...]
    grid: tuple[Settings, ...]


def schedule(learning_rate: Any, steps: int) -> optax.Schedule:
    """Warm-up and cosine over `steps`; the first step is not at zero."""
    return lambda count: learning_rate * warmup_cosine((count + 0.5) / steps)


def _adamw(settings: Settings, steps: int, theta: Theta | None) -> optax.GradientTransformationExtraArgs:
    rate = schedule(settings["learning_rate"], steps)
    return optax.with_extra_args_support(optax.adamw(rate, b1=settings["b1"], b2=settings["b2"], weight_decay=0.0))


def _muon(settings: Settings, steps: int, theta: Theta | None) -> optax.GradientTransformationExtraArgs:
    """Nesterov momentum, orthogonalised, at RMS 1."""
    rate = schedule(settings["learning_rate"], steps)

    def axes(params: Any) -> Any:
        return jax.tree.map(lambda _: MuonDimensionNumbers(0, 1), params)

    hidden = optax.chain(
        scale_by_muon(beta=settings["momentum"], nesterov=True, weight_dimension_numbers=axes),
        scale_by_shape(axes, consistent_rms=1.0),
        optax.scale_by_learning_rate(rate),
    )
    rest = optax.adamw(_times(settings["adamw_lr_multiplier"], rate), b1=0.9, b2=0.95, weight_decay=0.0)

    def labels(params: Any) -> Any:
        rules = iter(celo2_jax.route(params))
        return jax.tree.map(lambda _: next(rules).rule, params)

    return optax.with_extra_args_support(optax.partition({"celo2": hidden, "adamw": rest}, labels))


def _celo2(settings: Settings, steps: int, theta: Theta | None) -> optax.GradientTransformationExtraArgs:
    assert theta is not None
    rate = schedule(settings["learning_rate"], steps)
    return celo2_jax.celo2(rate, adamw_lr_multiplier=settings["adamw_lr_multiplier"], theta=theta)


def _times(factor: Any, rate: optax.Schedule) -> optax.Schedule:
    return lambda count: factor * rate(count)


MULTIPLIERS = (5.0, 20.0)

TUNED = {
    "adamw": Tuned(
        _adamw, (1e-3, 2e-3, 4e-3), tuple({"b1": b1, "b2": b2} for b1, b2 in ((0.9, 0.999), (0.9, 0.95), (0.8, 0.95)))
    ),
    "muon": Tuned(
        _muon,
        (1e-3, 2e-3, 4e-3),
        tuple({"momentum": m, "adamw_lr_multiplier": k} for m, k in itertools.product((0.85, 0.9, 0.95), MULTIPLIERS)),
    ),
    "celo2": Tuned(_celo2, (1e-3, 2e-3, 4e-3), tuple({"adamw_lr_multiplier": k} for k in MULTIPLIERS)),
}
