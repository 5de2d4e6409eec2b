"""The optimizers that are compared, one file each, as optax transformations under one schedule."""

from celo2.evaluate.baselines.adamw import ADAMW
from celo2.evaluate.baselines.base import Baseline, Grid, Settings, schedule
from celo2.evaluate.baselines.celo2 import celo2
from celo2.evaluate.baselines.muon import MUON

__all__ = ["ADAMW", "MUON", "Baseline", "Grid", "Settings", "celo2", "schedule"]
