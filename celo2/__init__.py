"""Celo2: a learned optimizer for PyTorch (`celo2.torch`) and JAX (`celo2.jax`).

This module needs NumPy alone.
"""

from celo2.errors import InputError
from celo2.parameters.views import MatrixAxes
from celo2.rule.spec import Spec
from celo2.theta import Theta, load_theta, shipped

__all__ = ["InputError", "MatrixAxes", "Spec", "Theta", "__version__", "load_theta", "shipped"]
__version__ = "0.2.0"
