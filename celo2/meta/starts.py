"""Where meta-training starts: a random, handcrafted, published or shipped theta, or a file."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np

from celo2.baselines import load_celo, load_velo
from celo2.errors import InputError
from celo2.meta.inner import InnerLoop
from celo2.meta.learners import Baseline, Weights
from celo2.rule import Spec, channel_names, first_channel
from celo2.rule import Weights as RuleWeights
from celo2.theta import Theta, load_theta, shipped

FIRST_PHASE = "runs/meta-celo-mlp/theta.safetensors"
"""Where the preset celo finds what celo-mlp wrote."""
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
    return Theta(RuleWeights(w0, b0, w1, b1, w2, b2), spec, "by-hand")


MIXTURES = {
    "muon-0.3": {"M": 1.0, "G": 0.3},
    "muon-1": {"M": 1.0, "G": 1.0},
    "adam": {"M s": 1.0},
}
"""Muon's Nesterov momentum is a mixture of M and G: where gradients are mostly noise, half of G is
about its share at momentum 0.9, and as much as of M that of a shorter momentum. Adam's direction is
M_0.9 / sqrt(V)."""


def embedded_celo(seed: int, spec: Spec) -> Theta:
    """Return the MLP of the published Celo as a part of the rule's, which is wider.

    Both read the same channels; Celo's decay of V and its epsilons are others. Units that Celo
    lacks are random and add nothing at first, so that they can be learned (Celo: Moudgil, Knyazev,
    Lajoie, Belilovsky, arXiv 2501.12670).

    Raises:
        InputError: the spec reads other channels, or its MLP is narrower.
    """
    mlp = load_celo("celo").mlp
    assert mlp is not None
    width = len(mlp.b0)
    if channel_names(spec) != channel_names(Spec()) or spec.hidden < width:
        raise InputError(
            f"the start celo has the published features and {width} hidden units, this run "
            f"{spec}; take another start, or that spec"
        )
    w0, b0, w1, b1, w2, b2 = (np.array(w) for w in Theta.random(seed, spec).weights)
    w0[:, :width], b0[:width] = mlp.w0, mlp.b0
    w1[:width, :width], b1[:width] = mlp.w1, mlp.b1
    w2[:width], b2[:] = mlp.w2, mlp.b2
    w1[width:, :width], w2[width:] = 0, 0
    return Theta(RuleWeights(w0, b0, w1, b1, w2, b2), spec, "celo-embedded")


STARTS: dict[str, Callable[[int, Spec], Theta]] = {
    "random": Theta.random,
    "celo": embedded_celo,
    **{name: functools.partial(handcrafted, mixture=mixture) for name, mixture in MIXTURES.items()},
}
"""Each makes a theta of (seed, spec)."""


def start(source: str, seed: int, loop: InnerLoop) -> Weights:
    """Return the theta that meta-training starts at.

    Args:
        source: one of `STARTS`; "random" for Celo and VeLO; a theta that ships, or a file.
        seed: of a start that is drawn.
        loop: says what is learned.

    Raises:
        InputError: there is no such start, or it is one of another rule.
    """
    optimizer = loop.optimizer
    if isinstance(optimizer, Baseline):
        return _of_baseline(source, seed, optimizer)
    if source in STARTS:
        return STARTS[source](seed, loop.spec).weights
    if source not in shipped() and not Path(source).is_file():
        raise InputError(
            f"start is {source!r}; give one of {', '.join([*STARTS, *shipped()])}, or a file"
        )
    theta = load_theta(source)
    if theta.spec != loop.spec:
        raise InputError(
            f"the start {source} has {theta.spec}, this run {loop.spec}; "
            "take another start, or that spec"
        )
    return theta.weights


def _of_baseline(source: str, seed: int, optimizer: Baseline) -> Weights:
    if source == "random":
        return optimizer.random(seed)
    if source == FIRST_PHASE and not Path(source).is_file():
        raise InputError(
            f"start is {source}, which is not there; meta-train the first phase, "
            "celo2 meta-train --preset celo-mlp, or give another file"
        )
    loaded = load_velo(source) if optimizer.name == "velo" else load_celo(source)
    shapes = [array.shape for array in jax.tree.leaves(loaded)]
    if shapes != [array.shape for array in jax.tree.leaves(optimizer.random(seed))]:
        raise InputError(
            f"the start {source} is not one of {optimizer.name} with an LSTM "
            f"{optimizer.lstm_width} wide and, of VeLO, {optimizer.mlps} MLPs; "
            "set these, or take another start"
        )
    return loaded
