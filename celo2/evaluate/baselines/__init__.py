"""The optimizers that are compared, as optax transformations under one schedule.

None is written here that a package has.
"""

from celo2.evaluate.baselines.adamw import ADAMW
from celo2.evaluate.baselines.base import Baseline, Grid, Settings, schedule
from celo2.evaluate.baselines.celo2 import celo2, celo2_total_steps
from celo2.evaluate.baselines.muon import MUON
from celo2.evaluate.baselines.muon_policy import muon_total_steps
from celo2.evaluate.baselines.ppo_adam import ppo_adam
from celo2.evaluate.baselines.registry import OPTIMIZERS, baselines
from celo2.evaluate.baselines.tuning_free import velo

__all__ = [
    "ADAMW",
    "MUON",
    "OPTIMIZERS",
    "Baseline",
    "Grid",
    "Settings",
    "baselines",
    "celo2",
    "celo2_total_steps",
    "muon_total_steps",
    "ppo_adam",
    "schedule",
    "velo",
]
