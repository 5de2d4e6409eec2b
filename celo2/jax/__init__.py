"""Celo2 for JAX, as optax transformations: `celo2` in place of `optax.adamw`. Needs jax and optax alone, no PyTorch."""

from celo2.jax.transform import MatrixAxes, ScaleByCelo2State, celo2, route, scale_by_celo2

__all__ = ["MatrixAxes", "ScaleByCelo2State", "celo2", "route", "scale_by_celo2"]
