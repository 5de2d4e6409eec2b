"""AdamW on every parameter, with three pairs of decays."""

from __future__ import annotations

import optax

from celo2.evaluate.baselines.base import (
    Baseline,
    Grid,
    Settings,
    decaying,
    schedule,
    weight_decay,
)


def _build(settings: Settings, steps: int) -> optax.GradientTransformationExtraArgs:
    adamw = optax.adamw(
        schedule(settings, steps),
        settings["b1"],
        settings["b2"],
        weight_decay=weight_decay(settings),
        mask=decaying,
    )
    return optax.with_extra_args_support(adamw)


DECAYS = ((0.9, 0.999), (0.9, 0.95), (0.8, 0.95))
GRID = Grid((1e-3, 2e-3, 4e-3), tuple({"b1": b1, "b2": b2} for b1, b2 in DECAYS))
ADAMW = Baseline("adamw", _build, GRID)
