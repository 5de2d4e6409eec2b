"""Where meta-training starts: a random theta, a handcrafted one, or the one that ships."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np

from celo2.errors import InputError
from celo2.rule import Spec, Weights, first_channel
from celo2.theta import Theta, load_theta

REST = 0.1
"""Scale of what the other hidden units add at first, so that they can be learned too."""


def handcrafted(seed: int, spec: Spec, mixture: Mapping[str, float], rest: float = REST) -> Theta:
    """Return a theta in which a pair of ReLU units passes on a mixture of normalized features.

    They compute relu(x) - relu(-x); the other units are random.

    `mixture` gives the weights of features by name; of those with several decays the first is
    meant.
    """
    theta = Theta.random(seed, spec)
    w0, b0, w1, b1, w2, b2 = (np.array(w) for w in theta.weights)
    w0[:, :2], w1[:, :2], w1[:2] = 0, 0, 0
    for feature, weight in mixture.items():
        w0[first_channel(spec, feature), :2] = weight, -weight
    w1[:2, :2] = np.eye(2)
    w2 *= rest
    w2[:2, 0] = 1, -1
    return Theta(Weights(w0, b0, w1, b1, w2, b2), spec, "by-hand")


def shipped(seed: int, spec: Spec) -> Theta:
    """Return the theta that ships as celo2, whatever the seed.

    Raises:
        InputError: it is for another spec.
    """
    theta = load_theta("celo2")
    if theta.spec != spec:
        raise InputError(
            f"the start celo2 has {theta.spec}, this run {spec}; take another start, or that spec"
        )
    return theta


MIXTURES = {
    "muon-0.3": {"M": 1.0, "G": 0.3},
    "muon-1": {"M": 1.0, "G": 1.0},
    "adam": {"M s": 1.0},
}
"""Muon's Nesterov momentum is a mixture of M and G: where gradients are mostly noise, half of G is
about its share at momentum 0.9, and as much as of M that of a shorter momentum. Adam's direction is
M_0.9 / sqrt(V)."""

STARTS: dict[str, Callable[[int, Spec], Theta]] = {
    "random": Theta.random,
    "celo2": shipped,
    **{name: functools.partial(handcrafted, mixture=mixture) for name, mixture in MIXTURES.items()},
}
"""Each makes a theta of (seed, spec)."""
