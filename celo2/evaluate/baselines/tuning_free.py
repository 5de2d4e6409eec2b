"""Learned optimizers without a learning rate: Celo with its published weights, and VeLO."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import optax

from celo2.baselines import celo as celo_transform
from celo2.baselines import load_celo, load_velo, weights_hash
from celo2.baselines import velo as velo_transform
from celo2.evaluate.baselines.base import Baseline, Grid, Settings


def celo(source: str | os.PathLike[str] = "celo") -> Baseline:
    """Return Celo, with its published weights, those meta-trained here, or those of a file."""
    return _tuning_free("celo", celo_transform, load_celo(source))


def velo(source: str | os.PathLike[str] = "velo-small") -> Baseline:
    """Return VeLO, with the weights meta-trained here or those of a file, as the published one."""
    return _tuning_free("velo", velo_transform, load_velo(source))


def _tuning_free(name: str, transform: Callable[..., Any], weights: Any) -> Baseline:
    build = functools.partial(_build, transform, weights)
    return Baseline(name, build, Grid(), weights=weights, theta=weights_hash(weights))


def _build(
    transform: Callable[..., Any], weights: Any, settings: Settings, steps: int
) -> optax.GradientTransformationExtraArgs:
    del settings
    return transform(steps, weights)
