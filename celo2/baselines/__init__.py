"""Celo and VeLO, the learned optimizers that Celo2 is measured against, as optax transformations.

They have no learning rate. They need the number of steps up front and the training loss at every
step: `update(grads, state, params, value=loss)`. This package needs jax and optax.
"""

from celo2.baselines.celo import celo, celo_adam, celo_mlp
from celo2.baselines.checkpoint import convert_checkpoint
from celo2.baselines.theta import (
    CeloWeights,
    VeloWeights,
    load_celo,
    load_velo,
    random_celo,
    random_velo,
    save_weights,
    weights_hash,
)
from celo2.baselines.velo import velo

__all__ = [
    "CeloWeights",
    "VeloWeights",
    "celo",
    "celo_adam",
    "celo_mlp",
    "convert_checkpoint",
    "load_celo",
    "load_velo",
    "random_celo",
    "random_velo",
    "save_weights",
    "velo",
    "weights_hash",
]
