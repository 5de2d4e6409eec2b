"""Celo2: a learned optimizer for PyTorch (`celo2.torch`) and JAX (`celo2.jax`). This module needs NumPy alone."""

from celo2.errors import InputError
from celo2.spec import Spec
from celo2.theta import Theta, load_theta, shipped
from celo2.views import MatrixAxes

__all__ = ["InputError", "MatrixAxes", "Spec", "Theta", "__version__", "load_theta", "shipped"]
__version__ = "0.1.0"
