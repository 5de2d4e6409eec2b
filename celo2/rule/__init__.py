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
    average_count,
    channel_names,
    channel_signs,
    factored_channels,
    first_channel,
    in_order,
    plain_channels,
    preconditioners,
    side_channels,
    split_averages,
)
from celo2.rule.finish import has_gradient, has_history, normalize, orthogonalize
from celo2.rule.guard import (
    MOMENTUM,
    Products,
    Push,
    check_kappa,
    guarded_update,
    products,
    push,
)
from celo2.rule.network import (
    Weights,
    direction,
    entrywise_direction,
    first_layer,
    fold,
    hidden_layers,
    later_layers,
    mean_squares,
    shapes,
)
from celo2.rule.spec import LEAN, POLAR_EXPRESS, Spec
from celo2.rule.update import (
    Accumulators,
    accumulate,
    accumulate_factored,
    compute_features,
    init,
    moving_averages,
    propose,
    second_moment,
    update,
)

__all__ = [
    "FEATURES",
    "LEAN",
    "MOMENTUM",
    "POLAR_EXPRESS",
    "Accumulators",
    "Channels",
    "Feature",
    "Products",
    "Push",
    "Spec",
    "Weights",
    "accumulate",
    "accumulate_factored",
    "average_count",
    "channel_names",
    "channel_signs",
    "check_kappa",
    "compute_features",
    "direction",
    "entrywise_direction",
    "factored_channels",
    "first_channel",
    "first_layer",
    "fold",
    "guarded_update",
    "has_gradient",
    "has_history",
    "hidden_layers",
    "in_order",
    "init",
    "later_layers",
    "mean_squares",
    "moving_averages",
    "normalize",
    "orthogonalize",
    "plain_channels",
    "preconditioners",
    "products",
    "propose",
    "push",
    "second_moment",
    "shapes",
    "side_channels",
    "split_averages",
    "update",
]
