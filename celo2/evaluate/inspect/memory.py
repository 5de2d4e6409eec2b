"""How long the direction remembers a gradient: its response to one of them, step by step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from celo2 import rule
from celo2.rule import Accumulators, Weights
from celo2.theta import Theta

SHAPE = (64, 96)
SCALE = 1e-2
"""Of gradients and weights."""
WARM_UP = 1500
"""Steps before the gradient, after which the slowest average has its usual size."""
CHANGE = 1e-2
"""Size of the change of the gradient over its own."""
LAGS = (0, 1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 90, 128, 181, 256, 362, 512, 724, 1024)


def memory(theta: Theta, lags: Sequence[int] = LAGS, seed: int = 0) -> np.ndarray:
    """Return the response of the direction to one gradient after each of `lags` steps.

    Gradients are independent noise. One of them is changed by a small random matrix, once up and
    once down; the response is the derivative of the direction along that matrix, over the
    derivative in the step of the gradient itself. It is measured before orthogonalization.
    """
    rng = np.random.default_rng(seed)
    weights = Weights(*(np.asarray(array, np.float64) for array in theta.weights))
    p, change = SCALE * rng.standard_normal((2, *SHAPE))
    old = rule.init(np, theta.spec, p)
    for _ in range(WARM_UP):
        old = rule.accumulate(np, theta.spec, old, SCALE * rng.standard_normal(SHAPE))
    runs, found = [old, old], []
    for step in range(max(lags) + 1):
        g = SCALE * rng.standard_normal(SHAPE)
        here = [g + CHANGE * change, g - CHANGE * change] if step == 0 else [g, g]
        if step in lags:
            up, down = (
                _direction(theta, weights, run, x, p) for run, x in zip(runs, here, strict=True)
            )
            found.append(np.sum((up - down) * change))
        runs = [rule.accumulate(np, theta.spec, run, x) for run, x in zip(runs, here, strict=True)]
    return np.array(found) / found[0]


def _direction(
    theta: Theta, weights: Weights, old: Accumulators, g: np.ndarray, p: np.ndarray
) -> np.ndarray:
    d, _ = rule.propose(np, theta.spec, weights, old, g, p, None)
    return d
