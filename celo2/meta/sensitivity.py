"""What a theta listens to: how its direction answers to each channel that changes sign with the gradient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.table import Table

from celo2.rule import channel_names, channel_signs
from celo2.theta import Theta

DRAWS, SEED = 1 << 14, 0
"""Of the channels at which derivatives are taken."""


def response(theta: Theta) -> dict[str, float]:
    """Mean derivative of the direction by each odd channel, over the one of largest magnitude.

    Odd channels are drawn from a standard normal distribution, each by itself, and even ones are 1, the RMS that all have
    when the MLP reads them. Channels of a network depend on each other, so this is what theta would pass on of each.
    """
    w0, b0, w1, b1, w2, _ = (np.asarray(array, np.float64) for array in theta.weights)
    signs = np.array(channel_signs(theta.spec))
    normal = np.random.default_rng(SEED).standard_normal((DRAWS, len(signs)))
    first = np.where(signs < 0, normal, 1.0) @ w0 + b0
    second = np.maximum(first, 0) @ w1 + b1
    derivatives = w0 @ np.mean((first > 0) * (((second > 0) * w2[:, 0]) @ w1.T), axis=0)
    odd = {name: float(d) for name, sign, d in zip(channel_names(theta.spec), signs, derivatives, strict=True) if sign < 0}
    largest = max(map(abs, odd.values())) or 1.0
    return {name: d / largest for name, d in odd.items()}


def table(thetas: Sequence[Theta]) -> Table:
    """A column a theta, the channels that any of them listens to most first."""
    responses = [response(theta) for theta in thetas]
    out = Table(
        "channel", *(theta.identity.replace("@", "\n@") for theta in thetas), caption="mean derivative, over the largest"
    )
    names = dict.fromkeys(name for r in responses for name in r)  # decays are a theta's own
    for name in sorted(names, key=lambda name: -max(abs(r.get(name, 0)) for r in responses)):
        out.add_row(name, *(f"{r[name]:+.2f}" if name in r else "" for r in responses))
    return out

