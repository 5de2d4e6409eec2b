"""The sensitivity of a theta: how its update responds to each odd feature."""

from __future__ import annotations

import numpy as np

from celo2.rule import channel_names, channel_signs
from celo2.theta import Theta

DRAWS, SEED = 1 << 14, 0
"""Of the channels at which derivatives are taken."""


def sensitivity(theta: Theta) -> dict[str, float]:
    """Return the mean derivative of the MLP's output by each odd channel, over the largest one.

    Odd channels are drawn from a standard normal distribution, each by itself, and even ones are 1,
    the RMS that all have when the MLP reads them. Channels of a network depend on each other, so
    this is what theta would pass on of each.
    """
    w0, b0, w1, b1, w2, _ = (np.asarray(array, np.float64) for array in theta.weights)
    signs = np.array(channel_signs(theta.spec))
    normal = np.random.default_rng(SEED).standard_normal((DRAWS, len(signs)))
    first = np.where(signs < 0, normal, 1.0) @ w0 + b0
    second = np.maximum(first, 0) @ w1 + b1
    derivatives = w0 @ np.mean((first > 0) * (((second > 0) * w2[:, 0]) @ w1.T), axis=0)
    names = channel_names(theta.spec)
    odd = {n: float(d) for n, sign, d in zip(names, signs, derivatives, strict=True) if sign < 0}
    largest = max(map(abs, odd.values())) or 1.0
    return {name: d / largest for name, d in odd.items()}
