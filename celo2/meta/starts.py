"""Where meta-training starts: the published random theta, or one written by hand that already computes Muon's direction."""

from __future__ import annotations

import itertools

import numpy as np

from celo2.rule import TABLE, Weights
from celo2.spec import Spec
from celo2.theta import Theta

MOMENTUM, GRADIENT = 1.0, 0.3
"""Mixture of the normalised M_0.9 and G: about Muon's Nesterov momentum, where gradients are mostly noise."""
REST = 0.1
"""Scale of what the other hidden units add at first, so that they can be learned too."""


def random(seed: int, spec: Spec) -> Theta:
    """Truncated normal, biases 0, as published."""
    return Theta.random(seed, spec)


def muon(seed: int, spec: Spec) -> Theta:
    """A pair of ReLU units passes x = M_0.9 + 0.3 G on as relu(x) - relu(-x); the other units are random and small."""
    theta = Theta.random(seed, spec, "muon")
    w0, b0, w1, b1, w2, b2 = (np.array(w) for w in theta.weights)
    w0[:, :2], w1[:, :2], w1[:2] = 0, 0, 0
    for name, weight in (("M", MOMENTUM), ("G", GRADIENT)):
        w0[_row(name), :2] = weight, -weight
    w1[:2, :2] = np.eye(2)
    w2 *= REST
    w2[:2, 0] = 1, -1
    return Theta(Weights(w0, b0, w1, b1, w2, b2), spec, "muon")


STARTS = {"random": random, "muon": muon}


def _row(name: str) -> int:
    """The first row of w0 that reads a feature."""
    names = [feature for feature, _, _ in TABLE]
    return [0, *itertools.accumulate(channels for _, channels, _ in TABLE)][names.index(name)]
