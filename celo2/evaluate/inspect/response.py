"""How the MLP's output depends on each of its input channels, all others drawn at random."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from celo2.rule import channel_names, channel_signs
from celo2.theta import Theta

DRAWS, SEED = 1 << 11, 0
"""Of the other channels."""
LARGEST, POINTS = 3.0, 25
"""Values of a channel in units of its RMS over the matrix, up to this magnitude; how many."""


class Response(NamedTuple):
    """Of one channel."""

    name: str
    x: np.ndarray
    """Its values, (points,); those of an even channel, such as V, are not negative."""
    y: np.ndarray
    """Mean output of the MLP, over the RMS of its output."""

    @property
    def reach(self) -> float:
        """How far the mean output varies over the values of the channel."""
        return float(np.ptp(self.y))


def responses(theta: Theta) -> list[Response]:
    """Return the response to each channel of a matrix, in the order of the spec.

    Other odd channels are drawn from a standard normal distribution, each by itself; other even
    ones are 1, the RMS that all have when the MLP reads them.
    """
    signs = np.array(channel_signs(theta.spec))
    normal = np.random.default_rng(SEED).standard_normal((DRAWS, len(signs)))
    drawn = np.where(signs < 0, normal, 1.0)
    outputs = _output(theta, drawn)
    unit = np.sqrt(np.mean(outputs**2)) or 1.0
    found = []
    for channel, name in enumerate(channel_names(theta.spec)):
        x = np.linspace(-LARGEST if signs[channel] < 0 else 0.0, LARGEST, POINTS)
        y = np.empty(POINTS)
        for i, value in enumerate(x):
            changed = drawn.copy()
            changed[:, channel] = value
            y[i] = _output(theta, changed).mean() / unit
        found.append(Response(name, x, y))
    return found


def _output(theta: Theta, channels: np.ndarray) -> np.ndarray:
    w0, b0, w1, b1, w2, b2 = (np.asarray(array, np.float64) for array in theta.weights)
    first = np.maximum(channels @ w0 + b0, 0)
    return np.maximum(first @ w1 + b1, 0) @ w2[:, 0] + b2[0]
