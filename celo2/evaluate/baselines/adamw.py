"""AdamW on every parameter, with three pairs of decays; no weight decay."""

from __future__ import annotations

import optax

from celo2.evaluate.baselines.base import Baseline, Grid, Settings, schedule


def _build(settings: Settings, steps: int) -> optax.GradientTransformationExtraArgs:
    learning_rate = schedule(settings["learning_rate"], steps)
    b1, b2 = settings["b1"], settings["b2"]
    return optax.with_extra_args_support(optax.adamw(learning_rate, b1, b2, weight_decay=0.0))


DECAYS = ((0.9, 0.999), (0.9, 0.95), (0.8, 0.95))
GRID = Grid((1e-3, 2e-3, 4e-3), tuple({"b1": b1, "b2": b2} for b1, b2 in DECAYS))
ADAMW = Baseline("adamw", _build, GRID)
