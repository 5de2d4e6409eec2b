"""The learning-rate schedule of meta-training and of evaluation."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

WARMUP = 0.05
"""Fraction of a run spent in warm-up."""


def warmup_cosine(progress: Any, warmup: Any = WARMUP) -> Any:
    """Return the factor of the peak learning rate at `progress` (0..1) of a run.

    Linear warm-up for a fraction `warmup` of the run, then a cosine to 0.
    """
    warm = jnp.minimum(1.0, progress / warmup)
    return warm * 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip((progress - warmup) / (1 - warmup), 0, 1)))
