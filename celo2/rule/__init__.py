"""The Celo2 update rule (Moudgil, Knyazev, Belilovsky, arXiv 2602.19142), written once.

Pure functions over an array namespace `xp` that is the module itself: numpy, jax.numpy or torch.
A parameter is a batch of matrices (..., a, b) with the shorter side first (`celo2.parameters`); a
vector is the matrix (1, n). Read `update` first: it calls `features`, `network` and `finish`, whose
constants are a `Spec` and whose learned numbers are `Weights`. No state, no dtype or device
decision, no learning rate, no control flow on values.
"""

from celo2.rule.features import (
    FEATURES,
    Channels,
    Feature,
    channel_names,
    channel_signs,
    factored_channels,
    first_channel,
    in_order,
    plain_channels,
    preconditioners,
    side_channels,
)
from celo2.rule.finish import has_gradient, has_history, normalize, orthogonalize
from celo2.rule.network import (
    Weights,
    direction,
    entrywise_direction,
    first_layer,
    fold,
    later_layers,
    mean_squares,
    shapes,
)
from celo2.rule.spec import Spec
from celo2.rule.update import (
    Accumulators,
    accumulate,
    accumulate_factored,
    init,
    moving_averages,
    update,
)

__all__ = [
    "FEATURES",
    "Accumulators",
    "Channels",
    "Feature",
    "Spec",
    "Weights",
    "accumulate",
    "accumulate_factored",
    "channel_names",
    "channel_signs",
    "direction",
    "entrywise_direction",
    "factored_channels",
    "first_channel",
    "first_layer",
    "fold",
    "has_gradient",
    "has_history",
    "in_order",
    "init",
    "later_layers",
    "mean_squares",
    "moving_averages",
    "normalize",
    "orthogonalize",
    "plain_channels",
    "preconditioners",
    "shapes",
    "side_channels",
    "update",
]
