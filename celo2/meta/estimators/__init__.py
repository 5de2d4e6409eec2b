"""Estimators of the meta-gradient, one a file; all are an `Estimator`."""

from celo2.meta.estimators.base import Estimate, Estimator
from celo2.meta.estimators.evolution import ES, PES
from celo2.meta.estimators.unrolled import Unrolled

__all__ = ["ES", "PES", "Estimate", "Estimator", "Unrolled"]
