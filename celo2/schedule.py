"""The learning-rate schedule that networks are trained with, in meta-training and in validation alike."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

WARMUP = 0.05
"""Fraction of a run."""


def warmup_cosine(progress: Any) -> Any:
    """Factor of the peak rate after `progress` (0..1) of a run: up in a line over the first twentieth, then a cosine to 0."""
    warm = jnp.minimum(1.0, progress / WARMUP)
    return warm * 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip((progress - WARMUP) / (1 - WARMUP), 0, 1)))
