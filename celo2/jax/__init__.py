"""Celo2 for JAX, as optax transformations: `celo2` in place of `optax.adamw`. Needs no PyTorch.

Leaves of two and more axes are (..., in, out). Where a library keeps (out, in), as equinox does,
state it: `celo2(1e-3, axes=MatrixAxes(fan_in=1, fan_out=0))`.
"""

from celo2.jax.optimizer import celo2
from celo2.jax.routing import route
from celo2.jax.transform import ScaleByCelo2State, scale_by_celo2
from celo2.parameters.views import MatrixAxes

__all__ = ["MatrixAxes", "ScaleByCelo2State", "celo2", "route", "scale_by_celo2"]
